"""Tokens and their candidates, as clients see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from conf_server.serving.token_decoding import Decode, shown_as_id
from conf_server.stats.trace import TraceRows

LOWEST_LOGPROB = -9999.0
"""What vLLM writes for the logarithm of zero: OpenAI's schema has room for numbers only."""

_Text = TypeVar("_Text", str, bytes)


@dataclass(frozen=True)
class ShownToken:
    """One position of a sequence.

    Attributes:
        ids: the token itself, then its candidates; see `own_first`.
        texts: their text, or `token_id:N`.
        logprobs: their log-probabilities in nats, at least `LOWEST_LOGPROB`.
        decoded: the token's own text, whatever `texts` shows.
    """

    ids: list[int]
    texts: list[str]
    logprobs: list[float]
    decoded: str


def shown_tokens(
    rows: TraceRows,
    shown: int,
    decode: Decode,
    context: list[int],
    as_token_ids: bool = False,
) -> list[ShownToken]:
    """Tokens, each with its `shown` likeliest candidates (-1: with all that there are).

    Args:
        context: tokens before the first row, for characters split over tokens.
        as_token_ids: show `token_id:N` instead of text.
    """
    ordered = list(own_first(rows, shown))
    all_ids, all_logprobs = [ids for ids, _ in ordered], [logprobs for _, logprobs in ordered]
    decoded = decode(all_ids, context)
    return [
        ShownToken(
            ids,
            [shown_as_id(i) for i in ids] if as_token_ids else texts,
            logprobs,
            texts[0],
        )
        for ids, texts, logprobs in zip(all_ids, decoded, all_logprobs, strict=True)
    ]


def own_first(rows: TraceRows, shown: int) -> Iterator[tuple[list[int], list[float]]]:
    """Ids and log-probabilities of each row in the order in which vLLM shows them.

    The token itself comes first, then the `shown` likeliest candidates (-1: all) without it: one
    more than `shown`, unless the token is among those. NaN stays NaN.
    """
    stop = None if shown == -1 else 1 + shown
    all_ids, all_logprobs = (
        rows.named_ids[:, :stop].tolist(),
        rows.named_logprobs[:, :stop].tolist(),
    )
    for ids, logprobs in zip(all_ids, all_logprobs, strict=True):
        own = ids[0]
        if own in ids[1:]:
            again = ids.index(own, 1)
            del ids[again], logprobs[again]
        yield ids, at_least_lowest(logprobs)


def at_least_lowest(logprobs: list[float]) -> list[float]:
    """Log-probabilities for OpenAI's schema; NaN stays NaN."""
    # Hardly any row has to be changed. The smallest is NaN if the first is, and else no NaN.
    if not logprobs or min(logprobs) >= LOWEST_LOGPROB:
        return logprobs
    return [LOWEST_LOGPROB if logprob < LOWEST_LOGPROB else logprob for logprob in logprobs]


def likeliest_by_text(texts: Iterable[_Text], logprobs: Iterable[float]) -> dict[_Text, float]:
    """Log-probabilities by text. Of several tokens with one text, the likeliest counts."""
    likeliest: dict[_Text, float] = {}
    for text, logprob in zip(texts, logprobs, strict=True):
        if text not in likeliest or logprob > likeliest[text]:
            likeliest[text] = logprob
    return likeliest
