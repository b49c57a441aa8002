"""How far the samples' wording differs: minus the mean similarity of two (arXiv 2302.09664).

The numbers are those of lm-polygraph's LexicalSimilarity, which calls rouge_score and NLTK. They
are undefined for one sample. rouge_score reads a-z and 0-9 only: where samples have other
letters, the estimates by ROUGE are not exact.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

import numpy as np

from conf_server.uncertainty.estimate import Estimate, estimate
from conf_server.uncertainty.evidence import Evidence, Floats, Generation, required
from conf_server.uncertainty.words.ngrams import (
    Counts,
    common_subsequences,
    reads_all_letters,
    shared_ngrams,
)

_ORDERS: Final = (1, 2, 3, 4)
# lm-polygraph's weights of the orders, by the number of words of the shorter text.
_WEIGHTS: Final = {1: (1.0, 0, 0, 0), 2: (0.5, 0.5, 0, 0), 3: (0.33, 0.33, 0.33, 0)}
_ALL_ORDERS: Final = (0.25, 0.25, 0.25, 0.25)


def lexical_similarity_rouge_n(n: int) -> Callable[[Evidence], Estimate]:
    """Minus the mean ROUGE-n F-measure of all pairs, in [-1, 0]."""

    def compute(evidence: Evidence) -> Estimate:
        words = [sample.words for sample in _samples(evidence)]
        scores = f_measures(shared_ngrams(words, (n,))[n])
        return _of_all_letters(evidence, _minus_mean_pair(scores))

    return compute


def lexical_similarity_rouge_l(evidence: Evidence) -> Estimate:
    """Minus the mean ROUGE-L F-measure of all pairs, in [-1, 0]."""
    words = [sample.words for sample in _samples(evidence)]
    return _of_all_letters(evidence, _minus_mean_pair(f_measures(common_subsequences(words))))


def lexical_similarity_bleu(evidence: Evidence) -> Estimate:
    """Minus the mean BLEU of all pairs, the earlier sample the reference, in [-1, 0].

    Words are split at white space. Runs of one to four words count, and for texts of fewer words
    shorter runs only.
    """
    return _minus_mean_pair(_bleu([sample.text.split() for sample in _samples(evidence)]))


def f_measures(shared: Counts) -> Floats:
    """(m, m) the F-measures 2PR / (P + R) of every two texts; 0 where they share nothing.

    Args:
        shared: (m, m) how much they share; the diagonal says how much a text has.
    """
    own = np.diag(shared)
    # 2PR / (P + R) = 2 shared / (own + own'), P = shared / own and R = shared / own'.
    return 2 * shared / np.maximum(own[:, None] + own, 1)


def _bleu(texts: Sequence[Sequence[str]]) -> Floats:
    """(m, m) BLEU as NLTK's sentence_bleu without smoothing: row = reference, column = a later
    text as the hypothesis."""
    shared = shared_ngrams(texts, _ORDERS)
    lengths = [len(words) for words in texts]
    precisions = [(shared[n] / np.maximum(np.diag(shared[n]), 1)).tolist() for n in _ORDERS]
    scores = np.zeros((len(texts), len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        if precisions[0][i][j]:
            orders = [precision[i][j] for precision in precisions]
            scores[i, j] = _bleu_of(orders, lengths[i], lengths[j])
    return scores


def _bleu_of(precisions: Sequence[float], reference: int, hypothesis: int) -> float:
    """The brevity penalty times the weighted geometric mean of the precisions.

    As in NLTK, a precision of 0 counts as the least positive float.
    """
    weights = _WEIGHTS.get(min(reference, hypothesis), _ALL_ORDERS)
    logs = [math.log(precision or sys.float_info.min) for precision in precisions]
    penalty = 1 - reference / hypothesis if hypothesis <= reference else 0.0
    return math.exp(penalty + sum(map(math.prod, zip(weights, logs, strict=True))))


def _samples(evidence: Evidence) -> tuple[Generation, ...]:
    return required(evidence.samples, "samples")


def _minus_mean_pair(scores: Floats) -> Estimate:
    pairs = scores[np.triu_indices(len(scores), 1)]
    return estimate(0.0 - float(pairs.mean()) if pairs.size else None)


def _of_all_letters(evidence: Evidence, whole: Estimate) -> Estimate:
    return replace(whole, exact=all(reads_all_letters(s.text) for s in evidence.samples))
