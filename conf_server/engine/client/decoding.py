"""The text of single tokens, as vLLM shows it beside log-probabilities."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

from vllm.tokenizers import TokenizerLike
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.logprobs import LogprobsProcessor

from conf_server.stats.split_characters import CONTEXT_TOKENS, SPLIT, is_split


def split_text(tokenizer: TokenizerLike, token_id: int, before: Sequence[int]) -> str:
    """The text of a token whose own `is_split`, after the tokens `before`.

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


def decoder(tokenizer: TokenizerLike) -> Any:
    """`decode_rows` of one tokenizer. Of the same tokenizer object, any two of them are equal."""
    return MethodType(decode_rows, tokenizer)
