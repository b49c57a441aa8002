"""What the soak sends: kinds of requests, drawn from a seed, of many lengths."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.servers import MODEL_NAME

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SCORE, UNCERTAINTY = "/v1/score", "/v1/uncertainty"
_SYLLABLES: Final = "ba do fi gu ka le mi no pe ra so tu ve wi zo an er il on us".split()  # noqa: SIM905


@dataclass(frozen=True)
class Request:
    """One request of the soak.

    Attributes:
        kind: its name in KINDS.
        path: where it goes.
        body: JSON.
        leaves_after_s: when the client hangs up; None for a client that stays.
    """

    kind: str
    path: str
    body: bytes
    leaves_after_s: float | None = None


@dataclass(frozen=True)
class _Kind:
    """How a kind of request is drawn.

    Attributes:
        stock: whether stock vLLM answers it.
        path: where it goes.
        fields: the body, but for the model.
        leaves: whether its clients hang up, after up to two seconds.
    """

    stock: bool
    path: str
    fields: Callable[[random.Random], dict[str, Any]]
    leaves: bool = False


def _text(draw: random.Random, most: int) -> str:
    """Up to `most` words, short texts as likely as long ones: each length is a new shape."""
    words = int(most ** draw.random()) + 3
    return " ".join("".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3))) for _ in range(words))


def _chat(**fields: Any) -> Callable[[random.Random], dict[str, Any]]:
    def drawn(draw: random.Random) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": _text(draw, 200)}],
            "max_tokens": draw.randint(1, 48),
            "ignore_eos": True,
            "temperature": draw.choice((0, 1.0)),
            **fields,
        }

    return drawn


def _completion(draw: random.Random) -> dict[str, Any]:
    return {
        "prompt": _text(draw, 200),
        "max_tokens": draw.randint(1, 48),
        "ignore_eos": True,
        "logprobs": 3,
    }


def _score(draw: random.Random) -> dict[str, Any]:
    return {
        "prompt": _text(draw, 200),
        "completions": [" " + _text(draw, 50) for _ in range(draw.randint(1, 6))],
        "mode": draw.choice(("stats", "per_token")),
    }


def _uncertainty(draw: random.Random) -> dict[str, Any]:
    methods = draw.choice((["fast"], ["lexical_similarity_rougeL", "semantic_entropy", "p_true"]))
    return {
        "messages": [{"role": "user", "content": _text(draw, 100)}],
        "max_tokens": draw.randint(4, 32),
        "uncertainty": {"methods": methods, "n_samples": 4, "similarity": "rouge_l"},
    }


_TOP_5: Final = {"logprobs": True, "top_logprobs": 5}
_PER_TOKEN: Final = {"logprobs": True, "top_logprobs": 20, "confidence": {"mode": "per_token"}}
_STATS: Final = {"logprobs": True, "confidence": {"mode": "stats"}}
_STREAM: Final = {"stream": True}

KINDS: Final[Mapping[str, _Kind]] = {
    "chat": _Kind(True, CHAT, _chat()),
    "chat-logprobs": _Kind(True, CHAT, _chat(**_TOP_5)),
    "chat-stream": _Kind(True, CHAT, _chat(**_TOP_5, **_STREAM)),
    "completion": _Kind(True, COMPLETIONS, _completion),
    "leave": _Kind(True, CHAT, _chat(**_TOP_5), leaves=True),
    "leave-stream": _Kind(True, CHAT, _chat(**_TOP_5, **_STREAM), leaves=True),
    "stats": _Kind(False, CHAT, _chat(**_STATS)),
    "stats-stream": _Kind(False, CHAT, _chat(**_STATS, **_STREAM)),
    "per-token": _Kind(False, CHAT, _chat(**_PER_TOKEN)),
    "score": _Kind(False, SCORE, _score),
    "uncertainty": _Kind(False, UNCERTAINTY, _uncertainty),
    "leave-stats": _Kind(False, CHAT, _chat(**_STATS, **_STREAM), leaves=True),
    "leave-score": _Kind(False, SCORE, _score, leaves=True),
    "leave-uncertainty": _Kind(False, UNCERTAINTY, _uncertainty, leaves=True),
}
STOCK_KINDS: Final = tuple(name for name, kind in KINDS.items() if kind.stock)


def requests(kinds: Sequence[str], seed: int = 1) -> Iterator[Request]:
    """Endlessly requests of these kinds, one kind after the other, each time with new texts."""
    draws = {name: random.Random(f"{name} {seed}") for name in kinds}
    while True:
        for name in kinds:
            kind, draw = KINDS[name], draws[name]
            body = json.dumps({"model": MODEL_NAME, **kind.fields(draw)}).encode()
            leaves = draw.uniform(0.02, 2) if kind.leaves else None
            yield Request(name, kind.path, body, leaves)
