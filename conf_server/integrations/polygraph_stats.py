"""Generated answers as lm-polygraph's statistics, by its names and with its conventions."""

from __future__ import annotations

import math
from typing import Any

from conf_server.integrations.polygraph_generation import Generated

Stats = dict[str, Any]
"""lm-polygraph's statistics: by name, a list with one entry for each text."""


def greedy_stats(answers: list[Generated], tokenizer: Any) -> Stats:
    """Statistics of one answer to each text. The end token counts as a token, and is no text."""
    return {
        "entropy": [list(one.entropies) for one in answers],
        "greedy_tokens": [list(one.tokens) for one in answers],
        "greedy_tokens_alternatives": [_alternatives(one) for one in answers],
        "greedy_texts": [tokenizer.decode(_without_end(one, tokenizer)) for one in answers],
        "greedy_log_likelihoods": [list(one.log_likelihoods) for one in answers],
    }


def sample_stats(samples: list[list[Generated]], tokenizer: Any) -> Stats:
    """Statistics of several answers to each text.

    As in lm-polygraph, the end token counts in `sample_log_probs` and in none of the others, and
    an answer of nothing else is left out.
    """
    kept = [[(one, _without_end(one, tokenizer)) for one in row] for row in samples]
    kept = [[(one, tokens) for one, tokens in row if tokens] for row in kept]
    return {
        "sample_log_probs": [[math.fsum(one.log_likelihoods) for one, _ in row] for row in kept],
        "sample_tokens": [[tokens for _, tokens in row] for row in kept],
        "sample_texts": [[tokenizer.decode(tokens) for _, tokens in row] for row in kept],
        "sample_log_likelihoods": [
            [list(one.log_likelihoods[: len(tokens)]) for one, tokens in row] for row in kept
        ],
    }


def _alternatives(answer: Generated) -> list[list[tuple[int, float]]]:
    """The likeliest tokens of each position, the answer's own first where it is among them."""
    return [
        sorted(row, key=lambda one: one[0] != token)
        for token, row in zip(answer.tokens, answer.candidates, strict=True)
    ]


def _without_end(answer: Generated, tokenizer: Any) -> list[int]:
    ended = bool(answer.tokens) and answer.tokens[-1] == tokenizer.eos_token_id
    return list(answer.tokens[:-1] if ended else answer.tokens)
