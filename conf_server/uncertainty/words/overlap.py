"""Similarities of texts that need no model.

They take many pairs at once, so that the words of each text are counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

import numpy as np

from conf_server.uncertainty.evidence import Floats
from conf_server.uncertainty.methods.lexical_similarity import f_measures
from conf_server.uncertainty.words.ngrams import Words, common_subsequences, unicode_words

TextPair = tuple[str, str]
Between = Callable[[], None]

_TEXTS_KEPT: Final = 128


def jaccard(pairs: Sequence[TextPair], between: Between = lambda: None) -> Floats:
    """(pairs,) the share of common words among all words of both texts, in [0, 1]; symmetric.

    Words are what white space separates, in lower case. Two texts without words score 1, where
    lm-polygraph says 0.

    Args:
        between: called now and then; what it raises ends the work.
    """

    @lru_cache(_TEXTS_KEPT)
    def words(text: str) -> set[str]:
        return set(text.lower().split())

    def score(a: str, b: str) -> float:
        between()
        return _overlap(words(a), words(b))

    return np.array([score(a, b) for a, b in pairs], np.float64)


def rouge_l(pairs: Sequence[TextPair], between: Between = lambda: None) -> Floats:
    """(pairs,) the ROUGE-L F-measures, in [0, 1]; symmetric.

    Words are `unicode_words`, which for English text are those of rouge_score with its stemmer.
    Two texts without words score 0.

    Args:
        between: called now and then; what it raises ends the work.
    """

    @lru_cache(_TEXTS_KEPT)
    def words(text: str) -> list[str]:
        between()
        return unicode_words(text)

    texts = list(dict.fromkeys(chain.from_iterable(pairs)))
    if len(texts) ** 2 >= 4 * len(pairs):  # a table of all pairs would be mostly idle
        scores = [_f_measure(words(a), words(b), between) for a, b in pairs]
        return np.array(scores, np.float64)
    number = {text: i for i, text in enumerate(texts)}
    table = f_measures(common_subsequences([words(text) for text in texts], between))
    return np.array([table[number[a], number[b]] for a, b in pairs], np.float64)


def _overlap(a: set[str], b: set[str]) -> float:
    union = a | b
    return len(a & b) / len(union) if union else 1.0


def _f_measure(a: Words, b: Words, between: Between) -> float:
    """The F-measure of two texts.

    What both begin with and what both end with is common in any case, so that two texts which
    differ by one token cost little more than their comparison.
    """
    shortest = min(len(a), len(b))
    start = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    rest = shortest - start
    end = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    middle = [words[start : len(words) - end] for words in (a, b)]
    common = start + end + int(common_subsequences(middle, between)[0, 1])
    return 2 * common / max(len(a) + len(b), 1)
