"""The text of single tokens, as vLLM shows it beside log-probabilities."""

from collections.abc import Sequence
from typing import Final

from vllm.tokenizers import TokenizerLike
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.logprobs import LogprobsProcessor

CONTEXT_TOKENS: Final = 4
"""How many tokens one character of UTF-8 can be split over."""

SPLIT: Final = "\N{REPLACEMENT CHARACTER}"
"""The end of a token's text where the token ends within a character."""


def token_text(tokenizer: TokenizerLike, token_id: int) -> str:
    """The text of one id, which is preliminary if `is_split` says so."""
    return convert_ids_list_to_tokens(tokenizer, [token_id])[0]


def is_split(text: str) -> bool:
    """Whether a text ends within a character, so that the tokens before decide what it is."""
    return text.endswith(SPLIT)


def split_text(tokenizer: TokenizerLike, token_id: int, before: Sequence[int]) -> str:
    """The text of a token that `is_split`, after the tokens `before`.

    A character that is split over several tokens is the text of the token that completes it,
    and the text of the others is empty. This is vLLM's rule; with it the texts of a
    sequence's tokens join to the sequence's text.
    """
    verifier = LogprobsProcessor(
        tokenizer=tokenizer,
        logprobs=None,
        prompt_logprobs=None,
        cumulative_logprob=None,
        num_logprobs=None,
        num_prompt_logprobs=None,
    )
    context = list(before)[-CONTEXT_TOKENS:]
    return verifier._verify_tokens([SPLIT], [token_id], context)[0]


def decode_rows(
    tokenizer: TokenizerLike, rows: Sequence[Sequence[int]], context: Sequence[int] = ()
) -> list[list[str]]:
    """The text of every id in `rows`, where `split_text` is of split characters.

    Args:
        rows: for each position of a sequence the ids there: the sequence's own token first,
            then other candidates.
        context: the sequence's tokens before the first row, oldest first.

    Returns:
        The texts, in the shape of `rows`.
    """
    decoded = iter(convert_ids_list_to_tokens(tokenizer, [i for row in rows for i in row]))
    history = list(context)[-CONTEXT_TOKENS:]
    texts = []
    for row in rows:
        row_texts = [next(decoded) for _ in row]
        texts.append(
            [
                split_text(tokenizer, token_id, history) if is_split(text) else text
                for token_id, text in zip(row, row_texts, strict=True)
            ]
        )
        history = [*history, row[0]][-CONTEXT_TOKENS:]
    return texts
