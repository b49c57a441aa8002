"""Similarities of texts that need no model; of many pairs at once, words counted once a text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from conf_server.uncertainty.evidence import Floats
from conf_server.uncertainty.lexical_similarity import f_measures
from conf_server.uncertainty.ngrams import Words, common_subsequences, unicode_words

TextPair = tuple[str, str]


def jaccard(pairs: Sequence[TextPair]) -> Floats:
    """(pairs,): share of common words among all words of both, in [0, 1]; symmetric.

    Words are what white space separates, in lower case. Two texts without words score 1
    (lm-polygraph: 0).
    """
    words = {text: set(text.lower().split()) for text in chain.from_iterable(pairs)}
    return np.array([_overlap(words[a], words[b]) for a, b in pairs], np.float64)


def rouge_l(pairs: Sequence[TextPair]) -> Floats:
    """(pairs,): ROUGE-L F-measures, in [0, 1]; symmetric.

    Words are `unicode_words`: of English text rouge_score's with its stemmer. Two texts
    without words score 0.
    """
    texts = list(dict.fromkeys(chain.from_iterable(pairs)))
    number = {text: i for i, text in enumerate(texts)}
    words = [unicode_words(text) for text in texts]
    if len(pairs) > len(texts):
        scores = f_measures(common_subsequences(words))
        return np.array([scores[number[a], number[b]] for a, b in pairs], np.float64)
    return np.array([_f_measure(words[number[a]], words[number[b]]) for a, b in pairs], np.float64)


def _overlap(a: set[str], b: set[str]) -> float:
    union = a | b
    return len(a & b) / len(union) if union else 1.0


def _f_measure(a: Words, b: Words) -> float:
    """Of two texts. What they begin and end with alike is common in any case: texts that differ
    by a token cost no more than the comparison."""
    shortest = min(len(a), len(b))
    start = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    rest = shortest - start
    end = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    middle = [words[start : len(words) - end] for words in (a, b)]
    common = start + end + int(common_subsequences(middle)[0, 1])
    return 2 * common / max(len(a) + len(b), 1)
