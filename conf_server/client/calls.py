"""What a call sends and how its answers become results, for both clients: nothing here waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from conf_server.client.chat_answer import Chat, chat_of
from conf_server.client.hidden import HiddenStates, hidden_states_of
from conf_server.client.results import Results
from conf_server.client.scored import Scored, scored_of
from conf_server.client.server_error import json_object, not_ours
from conf_server.client.thought import Thought, thought_of
from conf_server.client.tokens import Json
from conf_server.client.uncertain import Uncertainty, uncertainty_of

T = TypeVar("T")
R = TypeVar("R", Scored, HiddenStates)

UNCERTAINTY_OPTIONS: Final = frozenset(
    {
        *("methods", "n_samples", "similarity", "relevance", "backend", "temperature"),
        *("rauq_alpha", "return_samples"),
    }
)
"""Arguments that stand in the object `uncertainty` of a request; all others stand beside it."""

THINK_OPTIONS: Final = frozenset(
    {
        *("budget", "concurrency", "calibrate", "warmup", "keep_top", "below", "window"),
        *("consensus", "vote", "min_voters", "answer", "max_total_tokens", "traces"),
    }
)
"""Arguments that stand in the object `think` of a request. Its `top_k` is none of them: beside
`think` that is a parameter of sampling, which requests have as well."""

_CONTEXT_AND_TEXTS: Final = ("prompt", "messages", "completion", "completions", "items")


@dataclass(frozen=True)
class Part:
    """One of the requests that a call is made of.

    Attributes:
        body: without `model`, unless the caller has given one.
        texts: how many texts it is about, for the progress.
        places: of each text whose result it brings, its position among all and that of its item.
    """

    body: Mapping[str, Any]
    texts: int
    places: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def place(self) -> str:
        """Which items these are, in words."""
        first, last = self.places[0][1], self.places[-1][1]
        where = f"item {first}" if first == last else f"items {first} to {last}"
        return f"in a request of {where}, counted from 0"


@dataclass(frozen=True)
class Call(Generic[T]):
    """A route, what to post to it, and what to make of the answers.

    Attributes:
        kind: what the field `object` of an answer says.
        result: of the answers, in the order of the parts.
    """

    path: str
    kind: str
    parts: Sequence[Part]
    result: Callable[[list[Json]], T]


def score_call(fields: Mapping[str, Any], batch_size: int) -> Call[Scored | Results[Scored]]:
    """POST /v1/score. One result for a `completion`, else a list."""
    parts = _forced_parts(fields, batch_size)

    def result(answers: list[Json]) -> Scored | Results[Scored]:
        found = Results(
            scored_of(one, *place)
            for part, answer in zip(parts, answers, strict=True)
            for one, place in zip(answer["data"], part.places, strict=True)
        )
        return found[0] if "completion" in parts[0].body else found

    return Call("/v1/score", "score", parts, result)


def hidden_states_call(
    fields: Mapping[str, Any], batch_size: int
) -> Call[HiddenStates | Results[HiddenStates]]:
    """POST /v1/hidden_states. One result for one text, a list for `completions` and `items`."""
    if "encoding_format" in fields:
        raise TypeError("encoding_format: the client asks for base64 and makes arrays of it")
    parts = _forced_parts(fields, batch_size)

    def result(answers: list[Json]) -> HiddenStates | Results[HiddenStates]:
        found = Results(
            hidden_states_of(answer, one, *place)
            for part, answer in zip(parts, answers, strict=True)
            for one, place in zip(answer["data"], part.places, strict=True)
        )
        is_list = any(name in parts[0].body for name in ("completions", "items"))
        return found if is_list else found[0]

    return Call("/v1/hidden_states", "hidden_states", parts, result)


def uncertainty_call(fields: Mapping[str, Any]) -> Call[Uncertainty | Results[Uncertainty]]:
    """POST /v1/uncertainty. A list for a list of prompts and for `items`, else one result."""
    given = _given(fields, ("prompt", "messages", "items", "answer", "samples"))
    prompt = given.get("prompt")
    if "items" not in given and _is_list_of_texts(prompt):
        given["items"] = [{"prompt": one} for one in given.pop("prompt")]
    parts, is_list = _item_parts(given, "uncertainty", UNCERTAINTY_OPTIONS)

    def result(answers: list[Json]) -> Uncertainty | Results[Uncertainty]:
        found = Results(map(uncertainty_of, answers))
        return found if is_list else found[0]

    return Call("/v1/uncertainty", "uncertainty", parts, result)


def think_call(fields: Mapping[str, Any]) -> Call[Thought | Results[Thought]]:
    """POST /v1/think/chat/completions, answered whole. A list for `items`, else one result."""
    if fields.get("stream"):
        raise TypeError("stream: think() answers whole")
    given = _given(fields, ("messages", "items"))
    parts, is_list = _item_parts(given, "think", THINK_OPTIONS)

    def result(answers: list[Json]) -> Thought | Results[Thought]:
        found = Results(map(thought_of, answers))
        return found if is_list else found[0]

    return Call("/v1/think/chat/completions", "chat.completion", parts, result)


def chat_call(fields: Mapping[str, Any]) -> Call[Chat]:
    """POST /v1/chat/completions, answered whole."""
    if fields.get("stream"):
        raise TypeError("stream: chat() answers whole; stream_chat() gives the chunks")
    body = _given(fields, ("confidence",))
    return Call(
        "/v1/chat/completions", "chat.completion", [Part(body, 1)], lambda found: chat_of(found[0])
    )


def encoded(body: Mapping[str, Any]) -> bytes:
    """A body as JSON. Arrays of token ids may be numpy's or torch's.

    Raises:
        ValueError: it holds NaN or infinity, which are no JSON.
        TypeError: it holds what JSON cannot.
    """
    return json.dumps(body, allow_nan=False, default=_plain).encode()


def object_of(body: bytes, kind: str, url: str) -> Json:
    """The JSON object of an answer.

    Args:
        kind: what its field `object` has to say.

    Raises:
        ServerError: it is no answer of conf-server's.
    """
    answer = json_object(body)
    found = answer.get("object") if answer else None
    if answer is None or found != kind:
        raise not_ours(f"not an answer of conf-server: object {found!r}, not {kind!r}", url)
    return answer


def any_object(body: bytes, url: str) -> Json:
    """The JSON object of an answer, whatever it says.

    Raises:
        ServerError: it is none.
    """
    answer = json_object(body)
    if answer is None:
        raise not_ours("not a JSON object", url)
    return answer


def _given(fields: Mapping[str, Any], optional: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if v is not None or k not in optional}


def _is_list_of_texts(prompt: Any) -> bool:
    """Whether it is several prompts, and not the token ids of one."""
    is_list = isinstance(prompt, list | tuple) and bool(prompt)
    return is_list and isinstance(prompt[0], str | list | tuple)


def _item_parts(
    given: dict[str, Any], name: str, options: frozenset[str]
) -> tuple[list[Part], bool]:
    """A request for each of `items`, or the only one, and whether there were items.

    Args:
        name: the object of the request that `options` stand in.
    """
    items = given.pop("items", None)
    if items is not None and ("prompt" in given or "messages" in given):
        raise TypeError("items: a prompt or messages beside them belong into each item")
    bodies = [given] if items is None else [{**given, **item} for item in items]
    parts = [
        Part(_with_object(body, name, options), 1, ((index, index),))
        for index, body in enumerate(bodies)
    ]
    return parts, items is not None


def _with_object(fields: Mapping[str, Any], name: str, options: frozenset[str]) -> dict[str, Any]:
    """A body whose object of this name holds the options that are given."""
    body = {key: value for key, value in fields.items() if key not in options}
    given = {key: fields[key] for key in fields if key in options and fields[key] is not None}
    if given:
        body[name] = {**body.get(name, {}), **given}
    return body


def _forced_parts(fields: Mapping[str, Any], batch_size: int) -> list[Part]:
    """The requests of a call to a route that reads texts, of `batch_size` texts at most."""
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    given = _given(fields, _CONTEXT_AND_TEXTS)
    if "items" not in given:
        return list(_without_items(given, batch_size))
    own = [name for name in _CONTEXT_AND_TEXTS if name in given and name != "items"]
    if own:
        raise TypeError(f"{own[0]}: it stands beside items; put it into each item")
    items = given.pop("items")
    pieces = ((n, piece) for n, item in enumerate(items) for piece in _pieces(item, batch_size))
    return list(_with_items(given, pieces, batch_size))


def _without_items(given: Mapping[str, Any], batch_size: int) -> Iterator[Part]:
    start = 0
    for piece in _pieces(given, batch_size):
        count = _num_texts(piece)
        yield Part(piece, count, tuple((start + n, 0) for n in range(count)))
        start += count


def _with_items(
    given: Mapping[str, Any], pieces: Iterator[tuple[int, Mapping[str, Any]]], batch_size: int
) -> Iterator[Part]:
    start = 0
    batch: list[Mapping[str, Any]] = []
    places: list[tuple[int, int]] = []
    for item, piece in pieces:
        count = _num_texts(piece)
        if batch and len(places) + count > batch_size:
            yield Part({**given, "items": batch}, len(places), tuple(places))
            batch, places = [], []
        batch.append(piece)
        places += [(start + n, item) for n in range(count)]
        start += count
    # An empty list of items is sent as it is: the server says what is wrong with it.
    if batch or not start:
        yield Part({**given, "items": batch}, len(places), tuple(places))


def _pieces(item: Mapping[str, Any], batch_size: int) -> Iterator[Mapping[str, Any]]:
    """The item itself, or several that have its completions between them."""
    completions = item.get("completions")
    if completions is None or len(completions) <= batch_size:
        yield item
        return
    for start in range(0, len(completions), batch_size):
        yield {**item, "completions": completions[start : start + batch_size]}


def _num_texts(item: Mapping[str, Any]) -> int:
    completions = item.get("completions")
    return 1 if completions is None else len(completions)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
