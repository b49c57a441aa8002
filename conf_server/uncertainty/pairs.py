"""Which pairs of texts a judge has to compare, and what its verdicts on them add up to."""

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
_NEUTRAL: Final = np.array([0.0, 1.0, 0.0])
_REPLACEMENT: Final = "\ufffd"
"""What decoders write for bytes that are no character."""


def first_occurrences(texts: Sequence[str]) -> list[int]:
    """The index of each distinct text's first occurrence, in ascending order."""
    return sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())


def unique_pairs(texts: Sequence[str], symmetric: bool) -> list[Pair]:
    """The pairs (premise, hypothesis) of `texts` that a judge has to compare.

    Each distinct text stands for its repetitions, no text is judged against itself, and a
    symmetric judge gets each pair once.

    Returns:
        Pairs of indices of first occurrences, in ascending order; i < j where symmetric.
    """
    first = first_occurrences(texts)
    return [(i, j) for i in first for j in first if i < j or (i != j and not symmetric)]


def from_similarities(similarities: ArrayLike) -> Floats:
    """The verdicts of a judge that knows nothing but a similarity s: (s, 0, 1 - s) for each pair.

    Args:
        similarities: (pairs,), clipped to [0, 1].

    Returns:
        (pairs, 3) probabilities of entailment, neutrality and contradiction.
    """
    entail = np.clip(np.asarray(similarities, np.float64), 0.0, 1.0)
    return np.stack((entail, np.zeros_like(entail), 1 - entail), axis=1)


def assemble(
    texts: Sequence[str], pairs: Sequence[Pair], results: ArrayLike, symmetric: bool
) -> Judgements:
    """The judgements of all texts from those of their `unique_pairs`. A text entails itself.

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
    """The text without each of its n tokens, in turn.

    A character that is split over several tokens goes with each of them: the text of such tokens
    is empty but for the last one, which has the whole character, so an empty one takes away what
    the last one does. A token that the reader does not see, such as the end of the sequence,
    takes nothing away: its text is the whole one.

    Raises:
        MissingEvidenceError: the tokens' texts are not known.
        ValueError: joined they do not start with the text.
    """
    tokens = generation.tokens
    if tokens is None:
        raise MissingEvidenceError("needs the texts of the tokens")
    if not "".join(tokens).startswith(generation.text):
        raise ValueError("the tokens do not add up to the text")
    text = generation.text
    return [text[:start] + text[stop:] for start, stop in _spans(tokens)]


def _spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Where each token's characters begin and end, those of split characters included."""
    spans: list[tuple[int, int]] = []
    start = begun = 0
    for token in tokens:
        stop = start + len(token)
        if not token:
            begun += 1
        elif begun:
            # Only characters beyond ASCII are of more than one byte.
            shared = (start, stop) if not token.isascii() else (start, start)
            spans[-begun:] = [shared] * begun
            begun = 0
        spans.append((start, stop))
        start = stop
    return spans


def relevance_pairs(generation: Generation, question: str | None = None) -> list[tuple[str, str]]:
    """What a judge compares to find how much each of n tokens matters: with and without it.

    Equal texts mean that the token takes nothing away; nobody has to compare those.

    Args:
        generation: with its tokens' texts.
        question: put before both texts, as arXiv 2307.01379 (section 4.1), its code and
            lm-polygraph do. Words that the question has already then matter less. None to compare
            the texts alone, also for a judge that shows the question itself.

    Raises:
        MissingEvidenceError, ValueError: as `token_removals`.
    """
    lead = f"{question} " if question else ""
    whole = lead + generation.text
    return [(whole, lead + part) for part in token_removals(generation)]


def is_unreadable(token: str) -> bool:
    """Whether a token is no text of its own: part of a character, or bytes that are none."""
    return not token or _REPLACEMENT in token


def alternative_words(tokens: Sequence[str]) -> list[str | None]:
    """Alternative tokens as the judge of `Evidence.claims` reads them.

    Punctuation and blanks around them count for nothing, which is lm-polygraph's rule: a blank
    token is the empty word. None stands for a token that `is_unreadable`, which is no word.
    """
    return [None if is_unreadable(token) else token.strip(_AROUND_WORDS) for token in tokens]


def alternative_pairs(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """(premise, hypothesis) of an answer's own token, the first, and its alternatives.

    Each distinct word stands in both directions, none against itself. There are no pairs of
    tokens that cannot be read.
    """
    own, *others = alternative_words(tokens)
    if own is None:
        return []
    distinct = [word for word in dict.fromkeys(others) if word is not None and word != own]
    return [pair for word in distinct for pair in ((own, word), (word, own))]


def assemble_alternatives(
    tokens: Sequence[str],
    logprobs: NDArray[np.floating],
    pairs: Sequence[tuple[str, str]],
    results: ArrayLike,
) -> Alternatives:
    """The judged alternatives at one position of the answer.

    An alternative that cannot be read is neutral: nothing is known of its meaning.

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
    if own is not None:
        judged[own, own] = _CERTAIN

    def verdict(premise: str | None, hypothesis: str | None) -> Floats:
        if premise is None or hypothesis is None:
            return _NEUTRAL
        return judged[premise, hypothesis]

    return Alternatives(
        np.asarray(logprobs, np.float64),
        np.array([verdict(own, word) for word in words]),
        np.array([verdict(word, own) for word in words]),
        readable=own is not None,
    )
