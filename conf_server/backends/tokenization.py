"""Context and completion as token ids, with the border where a scorer needs it."""

from __future__ import annotations

from typing import Any

from conf_server.stats.forced import ForcedText


def join_texts(
    tokenizer: Any, prompt: str, completion: str, add_special_tokens: bool
) -> ForcedText:
    """Tokenize prompt and completion together.

    BPE merges across the border: `len(encode(prompt))` tokens need not be the prompt's.
    A token that straddles the border belongs to the completion. Special tokens that the
    tokenizer puts after the text are left out: the completion did not ask for them.
    """
    if not getattr(tokenizer, "is_fast", False):
        return _join_without_offsets(tokenizer, prompt, completion, add_special_tokens)
    fast: Any = tokenizer
    encoded = fast(
        prompt + completion, add_special_tokens=add_special_tokens, return_offsets_mapping=True
    )
    ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
    while ends and ends[-1] == 0 and len(ids) > 1:
        ids.pop()
        ends.pop()
    border = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))
    return ForcedText(ids, _without_straddler(fast, ids, border, prompt, completion))


def _without_straddler(
    tokenizer: Any, ids: list[int], border: int, prompt: str, completion: str
) -> int:
    """Offsets leave out white space at a token's edge: check the border against the text."""

    def text(count: int) -> str:
        return str(
            tokenizer.decode(
                ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    if text(len(ids)) == prompt + completion:  # else decoding is no measure of length
        while border and len(text(border)) > len(prompt):
            border -= 1
    return border


def _join_without_offsets(
    tokenizer: Any, prompt: str, completion: str, add_special_tokens: bool
) -> ForcedText:
    """Tokenizers without offsets: what the prompt alone shares with the whole is context."""
    whole = list(tokenizer.encode(prompt + completion, add_special_tokens=add_special_tokens))
    alone = list(tokenizer.encode(prompt, add_special_tokens=add_special_tokens))
    shared = 0
    while shared < min(len(whole), len(alone)) and whole[shared] == alone[shared]:
        shared += 1
    return ForcedText(whole, shared)


def append_completion(
    tokenizer: Any, context: list[int], completion: str | list[int]
) -> ForcedText:
    """A context that is tokens already, rendered or given, and a completion after it."""
    tail = (
        list(tokenizer.encode(completion, add_special_tokens=False))
        if isinstance(completion, str)
        else completion
    )
    return ForcedText([*context, *tail], len(context))


def force_text(
    tokenizer: Any,
    context: str | list[int],
    completion: str | list[int],
    add_special_tokens: bool,
) -> ForcedText:
    """Whichever of the two the inputs call for."""
    if isinstance(context, str):
        if isinstance(completion, str):
            return join_texts(tokenizer, context, completion, add_special_tokens)
        context = list(tokenizer.encode(context, add_special_tokens=add_special_tokens))
    return append_completion(tokenizer, context, completion)
