"""Tokens and their candidates, as clients see them."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.entrypoints.generate.base.serving import format_token_id_placeholder
from vllm.tokenizers import TokenizerLike

from conf_server.engine.client.decoding import decode_rows
from conf_server.stats.trace import TraceRows

LOWEST_LOGPROB = -9999.0
"""What vLLM writes for the logarithm of zero: OpenAI's schema has room for numbers only."""


@dataclass(frozen=True)
class ShownToken:
    """One position of a sequence.

    Attributes:
        ids: the token itself, then its candidates, likeliest first and without itself:
            the order in which vLLM shows them.
        texts: their text, or `token_id:N`.
        logprobs: their log-probabilities in nats.
        decoded: the token's own text, whatever `texts` shows.
    """

    ids: list[int]
    texts: list[str]
    logprobs: list[float]
    decoded: str


def shown_tokens(
    rows: TraceRows,
    shown: int,
    tokenizer: TokenizerLike,
    context: list[int],
    as_token_ids: bool = False,
) -> list[ShownToken]:
    """Tokens, each with its `shown` likeliest candidates (-1: with all that there are).

    Args:
        context: tokens before the first row, for characters split over tokens.
        as_token_ids: show `token_id:N` instead of text.
    """
    width = rows.candidate_ids.shape[1] if shown == -1 else shown
    all_ids, all_logprobs = [], []
    for own, own_logprob, candidates, logprobs in zip(
        rows.token_ids.tolist(),
        rows.logprobs.tolist(),
        rows.candidate_ids[:, :width].tolist(),
        rows.candidate_logprobs[:, :width].tolist(),
        strict=True,
    ):
        others = [pair for pair in zip(candidates, logprobs, strict=True) if pair[0] != own]
        all_ids.append([own, *(token_id for token_id, _ in others)])
        all_logprobs.append([own_logprob, *(logprob for _, logprob in others)])
    decoded = decode_rows(tokenizer, all_ids, context)
    return [
        ShownToken(
            ids,
            [format_token_id_placeholder(i) for i in ids] if as_token_ids else texts,
            logprobs,
            texts[0],
        )
        for ids, texts, logprobs in zip(all_ids, decoded, all_logprobs, strict=True)
    ]


def openai_logprob(logprob: float) -> float | None:
    """A log-probability for OpenAI's schema: at least `LOWEST_LOGPROB`, and null for NaN."""
    return None if logprob != logprob else max(logprob, LOWEST_LOGPROB)


def utf8(text: str) -> list[int]:
    """The bytes of a token's text, as OpenAI lists them."""
    return list(text.encode("utf-8", errors="replace"))
