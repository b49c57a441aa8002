"""Words that texts share: n-grams and longest common subsequences of many texts at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.uncertainty.words.porter_stemmer import stem as porter_stem

Words = Sequence[str]
Counts = NDArray[np.int64]

_ROUGE_WORD: Final = re.compile(r"[a-z0-9]+")
_LONGEST_UNSTEMMED: Final = 3
_SIDE_BY_SIDE: Final = 2**14
# Han, kana, Thai, Lao, Burmese and Khmer leave no blanks between words: each character is one.
_UNSPACED: Final = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNICODE_WORD: Final = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def rouge_words(text: str) -> list[str]:
    """The words that rouge_score finds with its stemmer.

    They are runs of a-z and 0-9 in lower case; those of more than three characters are stemmed. A
    text in another script has no words at all: see `reads_all_letters`.
    """
    return [_stemmed(word) for word in _ROUGE_WORD.findall(text.lower())]


def reads_all_letters(text: str) -> bool:
    """Whether `rouge_words` leaves out no letter and no digit of a text."""
    return text.isascii() or all(c.isascii() or not c.isalnum() for c in text)


def unicode_words(text: str) -> list[str]:
    """The words of a text in any script; those of a text in ASCII are its `rouge_words`.

    They are runs of letters, marks and digits in lower case. Runs in ASCII are stemmed as
    rouge_score does. In scripts that leave no blanks between words, each character is a word.
    """
    if text.isascii():
        return rouge_words(text)
    folded = unicodedata.normalize("NFKC", text).lower()
    spaced = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return [_stemmed(word) for word in _UNICODE_WORD.findall(spaced)]


@lru_cache(maxsize=65_536)
def _stemmed(word: str) -> str:
    return porter_stem(word) if len(word) > _LONGEST_UNSTEMMED and word.isascii() else word


def shared_ngrams(texts: Sequence[Words], orders: Sequence[int]) -> dict[int, Counts]:
    """For each order n, how many n-grams every two texts share, with repetitions.

    Args:
        texts: m lists of words.
        orders: ascending.

    Returns:
        For each n (m, m), whose entry i, j is the sum over all n-grams of the smaller of their
        counts in the texts i and j. The diagonal says how many n-grams a text has.
    """
    lengths = np.array([len(words) for words in texts])
    number: dict[str, int] = {}
    words = np.array([number.setdefault(word, len(number)) for text in texts for word in text], int)
    owner = np.repeat(np.arange(len(texts)), lengths)
    until_end = np.concatenate([np.arange(n, 0, -1) for n in lengths] or [words])
    shared, ngrams = {}, words
    for n in range(1, max(orders) + 1):
        if n > 1:
            # The n-gram here is the shorter one here and the word n-1 further on.
            ngrams = ngrams[:-1] * len(number) + words[n - 1 :]
            ngrams = np.unique(ngrams, return_inverse=True)[1] if ngrams.size else ngrams
        if n in orders:
            inside = until_end[: len(ngrams)] >= n
            shared[n] = _shared(ngrams[inside], owner[: len(ngrams)][inside], len(texts))
    return shared


def _shared(ngrams: Counts, owner: Counts, m: int) -> Counts:
    kinds = int(ngrams.max(initial=0)) + 1
    held, counts = np.unique(owner * kinds + ngrams, return_counts=True)
    owner, ngrams = np.divmod(held, kinds)
    borders = np.searchsorted(owner, np.arange(m + 1)).tolist()
    shared = np.zeros((m, m), int)
    for text, (start, stop) in enumerate(pairwise(borders)):
        own = np.zeros(kinds, int)
        own[ngrams[start:stop]] = counts[start:stop]
        smaller = np.minimum(own[ngrams[start:]], counts[start:])
        shared[text] = np.bincount(owner[start:], smaller, m)
    return shared + np.triu(shared, 1).T


def common_subsequences(
    texts: Sequence[Words], between: Callable[[], None] = lambda: None
) -> Counts:
    """(m, m) the length of the longest common subsequence of every two texts.

    The computation is bit-parallel (Hyyrö, "Bit-parallel LCS-length computation revisited",
    2004): one integer holds a column of the dynamic programme, for many texts side by side.

    Args:
        texts: m lists of words.
        between: called now and then; what it raises ends the work.
    """
    lengths = np.diag(np.array([len(words) for words in texts], int))
    for columns in _side_by_side(texts):
        spans, positions = _layout([texts[column] for column in columns])
        for row, words in enumerate(texts[: columns.stop - 1]):
            between()
            later = columns[max(row + 1 - columns.start, 0) :]
            wanted = spans[len(columns) - len(later) :]
            unmatched = _unmatched(words, positions, sum(wanted))
            for column, span in zip(later, wanted, strict=True):
                lengths[row, column] = (span & ~unmatched).bit_count()
                lengths[column, row] = lengths[row, column]
    return lengths


def _side_by_side(texts: Sequence[Words]) -> Iterator[range]:
    """Ranges of texts that have `_SIDE_BY_SIDE` words at most together, or hold one longer text.

    The positions of each distinct word take as many bits as a range has words.
    """
    start = words = 0
    for stop, text in enumerate(texts):
        if words and words + len(text) > _SIDE_BY_SIDE:
            yield range(start, stop)
            start, words = stop, 0
        words += len(text)
    yield range(start, len(texts))


def _layout(texts: Sequence[Words]) -> tuple[list[int], dict[str, int]]:
    """The bits of each text, and those of each word. A bit between two texts takes the carry."""
    spans, start = [], 0
    positions: dict[str, int] = {}
    for words in texts:
        spans.append(((1 << len(words)) - 1) << start)
        for i, word in enumerate(words, start):
            positions[word] = positions.get(word, 0) | 1 << i
        start += len(words) + 1
    return spans, positions


def _unmatched(words: Words, positions: dict[str, int], spans: int) -> int:
    """The column of the dynamic programme after all of `words`."""
    column = spans
    for word in words:
        if matches := column & positions.get(word, 0):
            column = ((column + matches) | (column - matches)) & spans
    return column
