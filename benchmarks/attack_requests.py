"""What one client may send to knock a server over, and what it should hear."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

CHAT: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
SCORE: Final[dict[str, Any]] = {"prompt": "Hi", "completion": " there"}
ANSWER: Final = (
    "The capital of France is Paris, a large city on the river Seine, which many people from all "
    "over the world visit every year because of its museums and its food."
)
MB: Final = 1_000_000


@dataclass(frozen=True)
class Attack:
    """Requests that are sent at once.

    Attributes:
        name: what they try.
        requests: paths and bodies.
        statuses: what they may be answered; empty where their clients leave.
        leave_s: when the clients leave; None where they wait.
    """

    name: str
    requests: tuple[tuple[str, bytes], ...]
    statuses: frozenset[int]
    leave_s: float | None = None


def _posts(path: str, *bodies: Any) -> tuple[tuple[str, bytes], ...]:
    return tuple((path, json.dumps(body).encode()) for body in bodies)


def unserializable() -> Attack:
    """Numbers of more than 64 bits and halves of surrogate pairs, which msgpack cannot hold."""
    half: list[dict[str, Any]] = [{"request_id": "\ud800"}, {"stop": ["\ud800"]}]
    chats = [*half, {"seed": 10**30}, {"priority": 10**30}, {"session_id": "\ud800"}]
    requests = (
        *_posts("/v1/chat/completions", *(CHAT | wrong for wrong in chats)),
        *_posts("/v1/completions", *({"prompt": "Hi", "max_tokens": 2} | wrong for wrong in chats)),
        *_posts("/v1/score", SCORE | {"priority": 10**30}, SCORE | {"request_id": "\ud800"}),
        *_posts("/v1/uncertainty", *(CHAT | wrong for wrong in half)),
    )
    return Attack("requests that cannot be serialized", requests * 4, frozenset({400}))


def large_bodies() -> Attack:
    """A megabyte with a long name before many values, and half of a surrogate pair at its end."""
    long_name = {"x" * (MB // 2): [*([0] * (MB // 8)), "\ud800"]}
    nested = {"messages": [[]] * (MB // 4)}
    bodies = (SCORE | long_name, SCORE | nested)
    return Attack("1 MB bodies of many parts", _posts("/v1/score", *bodies), frozenset({400}))


def long_prompts() -> Attack:
    """A megabyte of text before forty completions, and token ids that would be copied for each."""
    text = {"prompt": "word " * (MB // 5), "completions": [" a"] * 40}
    ids = {"prompt": [5] * 200_000, "completions": [" a"] * 60}
    return Attack("1 MB prompts", _posts("/v1/score", text, ids), frozenset({400}))


def many_texts() -> Attack:
    """A prompt that just fits before sixty completions, eight times at once."""
    bodies = (
        {"prompt": f"{n} " + "word " * 1500, "completions": [" a", " b"] * 30} for n in range(8)
    )
    return Attack("480 texts of 1,500 tokens", _posts("/v1/score", *bodies), frozenset(), 10)


def large_answers() -> Attack:
    """60 texts of 322 tokens, with 20 candidates for each."""
    items = [{"prompt": [n + 5], "completion": [n + 9] * 322} for n in range(60)]
    body = {"items": items, "mode": "per_token", "top_logprobs": 20}
    return Attack("an answer of 400,000 entries", _posts("/v1/score", body), frozenset({200}))


def repeated_metrics() -> Attack:
    """One metric's name 200,000 times."""
    body = SCORE | {"metrics": ["perplexity"] * 200_000}
    return Attack("200,000 metrics", _posts("/v1/score", body), frozenset({200}))


def many_mistakes() -> Attack:
    """A list of which every element is wrong."""
    score = _posts("/v1/score", SCORE | {"metrics": ["x"] * 50_000})
    return Attack("50,000 mistakes in one body", score, frozenset({400}))


def judging() -> Attack:
    """Hundreds of questions to the served model about an answer of 30 words."""
    body = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "answer": ANSWER,
        "uncertainty": {"methods": ["claim_conditioned_probability"], "similarity": "self_nli"},
    }
    return Attack("judging by the served model", _posts("/v1/uncertainty", body), frozenset(), 20)


def leaving() -> Attack:
    """Clients that leave in the middle of long work."""
    items = [{"prompt": [n + 1] * 900, "completion": [5] * 90} for n in range(20)]
    long = CHAT | {"max_tokens": 900, "ignore_eos": True}
    requests = (
        *_posts("/v1/score", {"items": items}),
        *_posts("/v1/uncertainty", long),
        *_posts("/v1/chat/completions", long, long | {"n": 8}, long | {"stream": True}),
    )
    return Attack("clients that leave", requests * 2, frozenset(), 1)


def echoes() -> Attack:
    """Names of three megabytes, which an error would quote."""
    name = "x" * (3 * MB)
    requests = (
        *_posts("/v1/chat/completions", CHAT | {"model": name}),
        *_posts("/v1/score", SCORE | {name: 1}, SCORE | {"mode": name}),
    )
    return Attack("names of 3 MB", requests, frozenset({400, 404}))


def too_large() -> Attack:
    """A body beyond --max-body-bytes."""
    return Attack("a body of 80 MB", (("/v1/score", b" " * (80 * MB)),), frozenset({413}))


ATTACKS: Final[tuple[Callable[[], Attack], ...]] = (
    unserializable,
    large_bodies,
    long_prompts,
    many_texts,
    large_answers,
    repeated_metrics,
    many_mistakes,
    judging,
    leaving,
    echoes,
    too_large,
)
