"""Log-probabilities of an answer's tokens as JSON text, joined from ready-made parts.

vLLM makes an object of every candidate of every token, which pydantic validates and turns into
JSON. Here no object is made per candidate: each token's part of the JSON comes from a table
(`fragments.py`), and the numbers are written by msgspec, a row at a time.

All text comes in pieces, each the work of milliseconds, so that whoever joins them can let other
requests have their turn in between.

The JSON has the values that `chat.py`, `completion.py` and `score_handler.py` make as objects; a
test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from itertools import accumulate, chain, count, repeat
from operator import add
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from conf_server.serving.fragments import Before, Vocabulary
from conf_server.serving.token_decoding import Decode
from conf_server.serving.tokens import at_least_lowest, likeliest_by_text, own_first
from conf_server.stats.split_characters import CONTEXT_TOKENS
from conf_server.stats.trace import TraceRows

ENTRIES: Final = 4096
"""Tokens and candidates in one piece of text, about: 3 ms of work."""

Columns = Mapping[str, NDArray]
"""Numbers by name, one for each token; NaN and infinities become null."""


class LogprobsEncoder:
    """Writes the rows of all requests of a process, with one vocabulary for each tokenizer."""

    def __init__(self) -> None:
        self._vocabularies: dict[tuple[Decode, bool], Vocabulary] = {}

    def vocabulary(self, decode: Decode, as_token_ids: bool = False) -> Vocabulary:
        key = decode, as_token_ids
        if key not in self._vocabularies:
            self._vocabularies[key] = Vocabulary(decode, as_token_ids)
        return self._vocabularies[key]


class EncodedTokens:
    """Consecutive tokens of one text, to be written as JSON."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        rows: TraceRows,
        context: Callable[[], list[int]],
        unscored: Sequence[int] = (),
    ) -> None:
        """
        Args:
            vocabulary: of the tokenizer that knows the tokens.
            rows: the tokens.
            context: gives the tokens before these; called for split characters only.
            unscored: tokens before `rows` that have no row, because nothing stood before them.
        """
        self._vocabulary = vocabulary
        self._rows = rows
        self._context = context
        self._unscored = unscored

    def chat(self, shown: int, columns: Columns, metrics: Columns) -> Iterator[bytes]:
        """The list of OpenAI's entries for /v1/chat/completions, piece by piece.

        Args:
            shown: how many candidates each has (-1: all that there are).
            columns: further numbers of each token.
            metrics: numbers in each token's `uncertainty`, which is left out if there are none.
        """
        return _pieces(
            part._chat(shown, _part(columns, rows), _part(metrics, rows))
            for part, rows in self._parts()
        )

    def _chat(self, shown: int, columns: Columns, metrics: Columns) -> Iterable[bytes]:
        rows = list(own_first(self._rows, shown))
        own = self._vocabulary.own.of([ids[0] for ids, _ in rows], self._before)
        if shown:
            numbers = map(self._with_candidates, rows, count(), repeat(shown))
        else:
            logprobs = _numbers([logprobs[0] for _, logprobs in rows])
            numbers = map(b'%b,"top_logprobs":[]'.__mod__, logprobs)
        tails = _members(_texts(columns, "uncertainty", metrics))
        return map(b"%b%b,%b}".__mod__, zip(own, numbers, tails, strict=True))

    def _with_candidates(self, row: tuple[list[int], list[float]], index: int, shown: int) -> bytes:
        """The number of a row's own token, and the first `shown` entries of all (-1: all)."""
        ids, logprobs = row
        stop = None if shown == -1 else shown
        numbers = _numbers(logprobs)
        entries = self._vocabulary.candidate.of(ids[:stop], self._before_row(index))
        return b'%b,"top_logprobs":[%b}]' % (numbers[0], b"},".join(map(add, entries, numbers)))

    def completion(
        self, shown: int | None, offset: int, columns: Columns, metrics: Columns
    ) -> tuple[Iterator[bytes], int]:
        """The members of OpenAI's object for /v1/completions, without braces: parallel lists.

        Args:
            shown: how many candidates `top_logprobs` has beside the token itself (-1: all that
                there are); None leaves that list empty.
            offset: where the first token begins in the text, in characters.
            columns: further numbers of each token.
            metrics: numbers in `token_uncertainty`, which is left out if there are none.

        Returns:
            The members, piece by piece, and where the next token will begin in the text.
        """
        texts = self._vocabulary.text.of(self._own_ids, self._before)
        *offsets, end = accumulate(map(len, texts), initial=offset)
        return self._completion(texts, offsets, shown, columns, metrics), end

    def _completion(
        self,
        texts: list[str],
        offsets: list[int],
        shown: int | None,
        columns: Columns,
        metrics: Columns,
    ) -> Iterator[bytes]:
        yield _name("text_offset") + _list(_numbers(offsets))
        logprobs = at_least_lowest(self._rows.logprobs.tolist())
        yield b"," + _name("token_logprobs") + _list(_numbers(logprobs))
        yield b"," + _name("tokens") + _list(map(msgspec.json.encode, texts))
        yield b"," + _name("top_logprobs")
        parts = () if shown is None else self._parts()
        yield from _pieces(part._by_text(shown or 0) for part, _ in parts)
        for name, column in _texts(columns, "token_uncertainty", metrics).items():
            yield b"," + _name(name) + _list(column)

    def score(self, shown: int, columns: Columns, metrics: Columns) -> Iterator[bytes]:
        """The list of entries for /v1/score, piece by piece; arguments as for `chat`."""
        return _pieces(
            part._score(shown, _part(columns, rows), _part(metrics, rows))
            for part, rows in self._parts()
        )

    def _score(self, shown: int, columns: Columns, metrics: Columns) -> Iterable[bytes]:
        own = self._vocabulary.scored.of(self._own_ids, self._before)
        candidates: Iterable[bytes] = repeat(b"", len(self._rows))
        if shown:
            ids = self._rows.candidate_ids[:, :shown].tolist()
            numbers = self._rows.candidate_logprobs[:, :shown].tolist()
            candidates = map(self._scored_candidates, ids, numbers, count())
        unscored = len(self._unscored)
        nothing = [b"null"] * unscored
        logprobs = nothing + _numbers(self._rows.logprobs)
        further = _texts(columns, "uncertainty", metrics)
        tails = _members({name: nothing + texts for name, texts in further.items()})
        candidates = chain(repeat(b"", unscored), candidates)
        return (
            b'%b%b,%b,"top_logprobs":[%b]}' % entry
            for entry in zip(own, logprobs, tails, candidates, strict=True)
        )

    def _scored_candidates(self, ids: list[int], logprobs: list[float], index: int) -> bytes:
        entries = self._vocabulary.scored.of(ids, self._before_row(index))
        return b"},".join(map(add, entries, _numbers(logprobs))) + b"}"

    def _by_text(self, shown: int) -> Iterator[bytes]:
        for row, (ids, logprobs) in enumerate(own_first(self._rows, shown)):
            keys = self._vocabulary.key.of(ids, self._before_row(row))
            if len(set(keys)) < len(keys):
                by_text = likeliest_by_text(keys, logprobs)
                keys, logprobs = list(by_text), list(by_text.values())
            yield b"{%b}" % b",".join(map(add, keys, _numbers(logprobs)))

    def _parts(self) -> Iterator[tuple[EncodedTokens, slice]]:
        """The tokens, a few at a time, and which rows they are; those without a row come first."""
        step = max(1, ENTRIES // self._rows.named_ids.shape[1])
        for start in range(0, max(len(self._rows), 1), step):
            rows = slice(start, start + step)
            yield (
                EncodedTokens(
                    self._vocabulary,
                    self._rows.part(start, start + step),
                    partial(self._before, len(self._unscored) + start) if start else self._context,
                    () if start else self._unscored,
                ),
                rows,
            )

    @cached_property
    def _own_ids(self) -> list[int]:
        return [*self._unscored, *self._rows.token_ids.tolist()]

    def _before(self, index: int) -> list[int]:
        """The tokens before one of ours, as many as one character can be split over."""
        before = self._own_ids[max(0, index - CONTEXT_TOKENS) : index]
        if len(before) < CONTEXT_TOKENS:
            before = [*self._context(), *before]
        return before[-CONTEXT_TOKENS:]

    def _before_row(self, row: int) -> Before:
        return lambda _candidate: self._before(len(self._unscored) + row)


def _numbers(values: NDArray | Sequence[float]) -> list[bytes]:
    """JSON of each number, the shortest that reads back as the same one; null for NaN."""
    numbers = values.tolist() if isinstance(values, np.ndarray) else values
    return msgspec.json.encode(numbers)[1:-1].split(b",") if len(numbers) else []


def _texts(columns: Columns, metrics_name: str, metrics: Columns) -> dict[str, list[bytes]]:
    """JSON of each column. The metrics are a column of objects, one for each token, if any."""
    texts = {name: _numbers(values) for name, values in columns.items()}
    if metrics:
        numbers = {name: _numbers(values) for name, values in metrics.items()}
        texts[metrics_name] = [b"{%b}" % members for members in _members(numbers)]
    return texts


def _members(columns: Mapping[str, Sequence[bytes]]) -> list[bytes]:
    """For each token the members of an object, without braces."""
    names = [_name(name) for name in columns]
    return [b",".join(map(add, names, row)) for row in zip(*columns.values(), strict=True)]


@cache  # there are as many as columns and metrics
def _name(name: str) -> bytes:
    return b'"%b":' % name.encode()


def _part(columns: Columns, rows: slice) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _pieces(parts: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """A list of the texts of all parts, each part one piece."""
    yield b"["
    comma = b""
    for part in parts:
        if text := b",".join(part):
            yield comma + text
            comma = b","
    yield b"]"


def _list(texts: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(texts)
