"""How to ask a judge of texts no more than is needed, and what its verdicts add up to."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conf_server.uncertainty.evidence import (
    Alternatives,
    Floats,
    Generation,
    Judgements,
    MissingEvidenceError,
)

Pair = tuple[int, int]

_AROUND_WORDS: Final = string.punctuation + " \n"
_ROUNDING: Final = 1e-6
_CERTAIN: Final = np.array([1.0, 0.0, 0.0])


def first_occurrences(texts: Sequence[str]) -> list[int]:
    """Index of each distinct text's first occurrence, ascending."""
    return sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())


def unique_pairs(texts: Sequence[str], symmetric: bool) -> list[Pair]:
    """Pairs (premise, hypothesis) of `texts` that a backend has to judge.

    Each distinct text stands for its repetitions, none is judged against itself, and a
    symmetric backend gets each pair once.

    Returns:
        Indices of first occurrences, in order; i < j where symmetric.
    """
    first = first_occurrences(texts)
    return [(i, j) for i in first for j in first if i < j or (i != j and not symmetric)]


def from_similarities(similarities: ArrayLike) -> Floats:
    """(pairs, 3): similarity, 0, 1 - similarity, what a judge says that knows no more.

    Args:
        similarities: (pairs,), clipped to [0, 1].
    """
    entail = np.clip(np.asarray(similarities, np.float64), 0.0, 1.0)
    return np.stack((entail, np.zeros_like(entail), 1 - entail), axis=1)


def assemble(
    texts: Sequence[str], pairs: Sequence[Pair], results: ArrayLike, symmetric: bool
) -> Judgements:
    """Judgements of all texts from those of their `unique_pairs`.

    A text entails itself.

    Args:
        texts: n texts.
        pairs: `unique_pairs(texts, symmetric)`.
        results: in their order, (len(pairs), 3) probabilities of entail, neutral, contradict.
        symmetric: whether a result holds in both directions.

    Raises:
        ValueError: a pair is missing or has no result, or one is not a probability.
    """
    if sorted(pairs) != sorted(unique_pairs(texts, symmetric)):
        raise ValueError("pairs are not the unique pairs of the texts")
    probabilities = _probabilities(results, len(pairs))
    distinct = list(dict.fromkeys(texts))
    number = {text: i for i, text in enumerate(distinct)}
    table = np.empty((len(distinct), len(distinct), 3))
    table[np.diag_indices(len(distinct))] = _CERTAIN
    for (i, j), result in zip(pairs, probabilities, strict=True):
        table[number[texts[i]], number[texts[j]]] = result
        if symmetric:
            table[number[texts[j]], number[texts[i]]] = result
    index = [number[text] for text in texts]
    full = table[np.ix_(index, index)]
    return Judgements(full[..., 0], full[..., 1], full[..., 2])


def _probabilities(results: ArrayLike, count: int) -> Floats:
    """(count, 3), checked."""
    given: Floats = np.asarray(results, np.float64)
    if given.size == 0:
        given = given.reshape(0, 3)
    if given.shape != (count, 3):
        raise ValueError(f"results of shape {given.shape} for {count} pairs")
    if not ((given >= -_ROUNDING) & (given <= 1 + _ROUNDING)).all():
        raise ValueError("results must lie between 0 and 1")
    return given.clip(0, 1)


def token_removals(generation: Generation) -> list[str]:
    """The text without each of its tokens, in turn: n texts.

    A token that the reader does not see, such as the end of the sequence, takes nothing
    away: its text is the whole one.

    Raises:
        MissingEvidenceError: the tokens' texts are not known.
        ValueError: joined they do not start with the text.
    """
    tokens = generation.tokens
    if tokens is None:
        raise MissingEvidenceError("needs the texts of the tokens")
    if not "".join(tokens).startswith(generation.text):
        raise ValueError("the tokens do not add up to the text")
    removals, start = [], 0
    for token in tokens:
        stop = start + len(token)
        removals.append(generation.text[:start] + generation.text[stop:])
        start = stop
    return removals


def alternative_words(tokens: Sequence[str]) -> list[str]:
    """Alternative tokens as the judge of `Evidence.claims` reads them.

    Punctuation and blanks around them count for nothing: lm-polygraph's rule.
    """
    return [token.strip(_AROUND_WORDS) for token in tokens]


def alternative_pairs(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """(premise, hypothesis) of an answer's own token, the first, and its alternatives.

    Each distinct word in both directions, none against itself.
    """
    own, *others = alternative_words(tokens)
    distinct = [word for word in dict.fromkeys(others) if word != own]
    return [pair for word in distinct for pair in ((own, word), (word, own))]


def assemble_alternatives(
    tokens: Sequence[str],
    logprobs: NDArray[np.floating],
    pairs: Sequence[tuple[str, str]],
    results: ArrayLike,
) -> Alternatives:
    """Judged alternatives at one position of the answer.

    Args:
        tokens: k texts, first the answer's own token.
        logprobs: (k,) nats.
        pairs: `alternative_pairs(tokens)`.
        results: as for `assemble`.

    Raises:
        ValueError: as `assemble`.
    """
    if list(pairs) != alternative_pairs(tokens):
        raise ValueError("pairs are not the alternative pairs of the tokens")
    own, *_ = words = alternative_words(tokens)
    judged = dict(zip(pairs, _probabilities(results, len(pairs)), strict=True))
    judged[own, own] = _CERTAIN
    return Alternatives(
        np.asarray(logprobs, np.float64),
        np.array([judged[own, word] for word in words]),
        np.array([judged[word, own] for word in words]),
    )
