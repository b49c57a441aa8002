"""Pairs of a context and a continuation, sorted by their contexts: one request reads each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

Ids = Sequence[int]
"""Token ids."""

MOST_CONTINUATIONS: Final = 64
MOST_TOKENS: Final = 4096
"""Of the continuations of one group. Tasks without contexts have thousands of them after the same
prefix token, and a request of all of them would be answered only at the end."""


@dataclass(frozen=True)
class ContextGroup:
    """Continuations of one context.

    Attributes:
        context: token ids, at least one.
        continuations: token ids of each; no two are equal.
        places: of each continuation, the positions of the pairs that it answers.
    """

    context: Ids
    continuations: tuple[Ids, ...]
    places: tuple[tuple[int, ...], ...]


def context_groups(pairs: Iterable[tuple[Ids, Ids]], max_length: int) -> Iterator[ContextGroup]:
    """Groups in the order in which their contexts first appear, equal pairs once.

    Args:
        pairs: token ids of a context and of its continuation.
        max_length: most tokens that the model reads, as lm-eval's models count them: the last
            token of a continuation is predicted and not read. Contexts lose their first tokens
            where they are too long.

    Raises:
        ValueError: a context or a continuation has no token, or a continuation alone is too long.
    """
    found: dict[Ids, dict[Ids, list[int]]] = {}
    for place, (context, continuation) in enumerate(pairs):
        if not context or not continuation:
            empty = "continuation" if context else "context"
            raise ValueError(f"pair {place}: its {empty} has no tokens")
        if len(continuation) > max_length:
            raise ValueError(
                f"pair {place}: its continuation has {len(continuation)} tokens, more than the "
                f"{max_length} of max_length"
            )
        left = fitting(context, continuation, max_length)
        places = found.setdefault(tuple(left), {}).setdefault(tuple(continuation), [])
        places.append(place)
    for shared, continuations in found.items():
        yield from _split(shared, continuations)


def fitting(context: Ids, continuation: Ids, max_length: int) -> Ids:
    """What is left of a context where it has to lose its first tokens.

    The rule is that of `HFLM._loglikelihood_tokens` in lm-eval's models/huggingface.py.
    """
    return context[max(0, len(context) + len(continuation) - (max_length + 1)) :]


def _split(context: Ids, continuations: dict[Ids, list[int]]) -> Iterator[ContextGroup]:
    part: list[Ids] = []
    tokens = 0
    for continuation in continuations:
        tokens += len(continuation)
        if part and (len(part) == MOST_CONTINUATIONS or tokens > MOST_TOKENS):
            yield _group(context, part, continuations)
            part, tokens = [], len(continuation)
        part.append(continuation)
    yield _group(context, part, continuations)


def _group(context: Ids, part: list[Ids], places: dict[Ids, list[int]]) -> ContextGroup:
    return ContextGroup(context, tuple(part), tuple(tuple(places[one]) for one in part))
