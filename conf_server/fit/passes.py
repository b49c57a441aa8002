"""What is asked of the server for a fit: one pass over a file of lines for each kind of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from conf_server.batch.endpoint import SCORE, Endpoint, LineError
from conf_server.heads.features import FeatureRow
from conf_server.uncertainty.fitted import FITTABLE, Learner, Pooled

_ONE_EACH: Final = "put each text on a line of its own"
_OURS: Final = "the command's flags say that"

ASKING: Final = Endpoint(
    command="fit",
    path="/v1/hidden_states",
    object="hidden_states",
    body="a body of POST /v1/score without `items`",
    refused={
        **dict.fromkeys(("items", "completions"), _ONE_EACH),
        **dict.fromkeys(("layers", "pooling", "tokens", "attention", "encoding_format"), _OURS),
        "model": "a fit is of one model, the server's own",
    },
)
"""What a line is checked against before anything is asked."""


HEAD_SCORES: Final = "head_scores"
HEAD_STATES: Final = "head_states"
"""Names of the passes that a head is trained on."""


@dataclass(frozen=True)
class Pass:
    """One pass over a file.

    Attributes:
        corpus: `train` or `background`.
        name: what is collected: a `Pooled`, or `logprobs`.
        endpoint: with the fields that say so to the server.
        places: by method, that of its layer in the server's answer; None where it reads all.
    """

    corpus: str
    name: str
    endpoint: Endpoint
    places: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Of its answers."""
        return f"{self.corpus}.{self.name}.jsonl"


def passes(methods: Iterable[str], layers: Mapping[str, int | None]) -> list[Pass]:
    """All passes that methods want, each once.

    Args:
        layers: by method, counted from 0; None where it reads all.
    """
    wanted: dict[tuple[str, Pooled], list[str]] = {}
    ranks = []
    for name in methods:
        pooled, learner = FITTABLE[name]
        wanted.setdefault(("train", pooled), []).append(name)
        if learner is Learner.RELATIVE:
            wanted.setdefault(("background", pooled), []).append(name)
        if learner is Learner.RANKED:
            ranks.append(name)
    found = [_states(*key, readers, layers) for key, readers in wanted.items()]
    if ranks:
        endpoint = replace(
            ASKING,
            path=SCORE.path,
            object=SCORE.object,
            fields={"confidence": {"mode": "empty"}},
            rewritten=_with_end,
        )
        found.append(Pass("train", "logprobs", endpoint))
    return found


def _states(
    corpus: str, pooled: Pooled, methods: list[str], layers: Mapping[str, int | None]
) -> Pass:
    if not pooled.has_layer:
        return _lookback(corpus, pooled, methods)
    read = sorted({layer for name in methods if (layer := layers[name]) is not None})
    endpoint = replace(
        ASKING,
        fields={
            "layers": read,
            "pooling": "mean" if pooled.is_mean else "last",
            "tokens": "completion" if pooled.is_of_answer else "all",
        },
        rewritten=_answer_without_end if pooled.is_of_answer else _without_end,
    )
    places = {name: read.index(layer) for name in methods if (layer := layers[name]) is not None}
    return Pass(corpus, pooled, endpoint, places)


def _lookback(corpus: str, pooled: Pooled, methods: list[str]) -> Pass:
    attention = {"layers": "all", "history": 0, "lookback": True}
    endpoint = replace(
        ASKING,
        fields={"layers": [], "tokens": "completion", "attention": attention},
        rewritten=_answer_without_end,
    )
    return Pass(corpus, pooled, endpoint, dict.fromkeys(methods))


def head_passes(features: FeatureRow) -> list[Pass]:
    """The passes for a head that is to be trained: what its features are made of."""
    wanted = features.wanted(completion_only=False)
    score = replace(
        ASKING,
        path=SCORE.path,
        object=SCORE.object,
        fields={"mode": "per_token", "top_logprobs": features.top_n},
        rewritten=_with_end,
    )
    found = [Pass("train", HEAD_SCORES, score)]
    if features.reads_layers:
        fields: dict[str, Any] = {
            **{"layers": list(wanted.layers), "pooling": "none", "tokens": "all"},
        }
        if wanted.attention is not None:
            fields["attention"] = {
                "layers": list(wanted.attention.layers),
                "history": wanted.attention.history,
                "context_mass": wanted.attention.context_mass,
            }
        states = replace(ASKING, fields=fields, rewritten=_answer_without_end)
        found.append(Pass("train", HEAD_STATES, states))
    return found


def _parted(body: dict[str, Any]) -> dict[str, Any]:
    """A chat that ends with the assistant's message has that message as its completion."""
    match body:
        case {"messages": [_, *_] as messages} if "completion" not in body:
            *before, last = messages
            match last:
                case {"role": "assistant", "content": str(text)} if before:
                    return {**body, "messages": before, "completion": text}
    return body


def _without_end(body: dict[str, Any]) -> dict[str, Any]:
    """A line for /v1/hidden_states: the end token of an answer is never read, see `Pooled`."""
    body = _parted(body)
    match body.get("completion"):
        case {"finished": bool(), **rest}:
            return {**body, "completion": rest}
    return body


def _answer_without_end(body: dict[str, Any]) -> dict[str, Any]:
    return _without_end(_require_completion(body))


def _with_end(body: dict[str, Any]) -> dict[str, Any]:
    """A line for /v1/score: the end token of an answer counts in its perplexity."""
    body = _require_completion(body)
    match body["completion"]:
        case str(text):
            given: Any = {"text": text}
        case list(ids):
            given = {"token_ids": ids}
        case dict(both):
            given = both
        case other:
            return {**body, "completion": other}  # which the server refuses
    return {**body, "completion": {**given, "finished": True}}


def _require_completion(body: dict[str, Any]) -> dict[str, Any]:
    body = _parted(body)
    if body.get("completion") is None:
        raise LineError("`completion`: one of --methods reads an answer, and the line has none")
    return body
