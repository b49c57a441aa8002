"""The text of single tokens, as vLLM shows it beside log-probabilities."""

from collections.abc import Sequence
from typing import Final

from vllm.tokenizers import TokenizerLike
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.logprobs import LogprobsProcessor

CONTEXT_TOKENS: Final = 4
"""How many tokens one character of UTF-8 can be split over."""


def decode_rows(
    tokenizer: TokenizerLike, rows: Sequence[Sequence[int]], context: Sequence[int] = ()
) -> list[list[str]]:
    """The text of every id in `rows`.

    A character that is split over several tokens is the text of the token that completes it,
    and the text of the others is empty. This is vLLM's rule; with it the texts of a
    sequence's tokens join to the sequence's text.

    Args:
        rows: for each position of a sequence the ids there: the sequence's own token first,
            then other candidates.
        context: the sequence's tokens before the first row, oldest first.

    Returns:
        The texts, in the shape of `rows`.
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
