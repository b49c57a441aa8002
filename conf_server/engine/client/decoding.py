"""Text of single tokens, as vLLM's log-probabilities show it."""

from collections.abc import Sequence
from typing import Final

from vllm.tokenizers import TokenizerLike
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.logprobs import LogprobsProcessor

CONTEXT_TOKENS: Final = 4
"""Tokens that one character of UTF-8 can be split over."""


def decode_rows(
    tokenizer: TokenizerLike, rows: Sequence[Sequence[int]], context: Sequence[int] = ()
) -> list[list[str]]:
    """Text of every id in `rows`, each row the ids at one position of a sequence.

    A character split over several tokens belongs to the token that completes it, the
    others are empty: vLLM's rule, so that joined tokens give the text.

    Args:
        rows: the first id of a row is the sequence's own token.
        context: tokens of the sequence before the first row, oldest first.
    """
    decoded = iter(convert_ids_list_to_tokens(tokenizer, [i for row in rows for i in row]))
    verifier = LogprobsProcessor(
        tokenizer=tokenizer,
        logprobs=None,
        prompt_logprobs=None,
        cumulative_logprob=None,
        num_logprobs=None,
        num_prompt_logprobs=None,
    )
    history = list(context)[-CONTEXT_TOKENS:]
    texts = []
    for row in rows:
        row_texts = [next(decoded) for _ in row]
        if any(text.endswith("�") for text in row_texts):
            row_texts = verifier._verify_tokens(row_texts, list(row), history)
        texts.append(row_texts)
        history = [*history, row[0]][-CONTEXT_TOKENS:]
    return texts
