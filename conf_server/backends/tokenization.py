"""Context and completion as token ids, with the border where a scorer needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from conf_server.stats.forced import ForcedText

MARGIN: Final = 256
"""Characters at the end of a prompt that are tokenized with each of its completions."""


class ContextEncoder:
    """One context, and any number of completions after it.

    BPE merges across the border: `len(encode(prompt))` tokens need not be the prompt's. So a
    prompt and a completion are tokenized together, and a token that straddles the border belongs
    to the completion. Special tokens that the tokenizer puts after the text are left out: the
    completion did not ask for them.

    Of a long prompt all but the end is tokenized once. The end's tokens show each time that the
    completion has changed nothing before it.
    """

    def __init__(self, tokenizer: Any, context: str | list[int], add_special_tokens: bool) -> None:
        """
        Args:
            tokenizer: of transformers' kind.
            context: token ids that stand as they are; or a text.
            add_special_tokens: whether a text gets the tokenizer's special tokens (BOS).
        """
        self._tokenizer = tokenizer
        self._context = context
        self._special = add_special_tokens
        self._beginning: _Beginning | None = None
        self._has_begun = False

    def followed_by(self, completion: str | list[int]) -> ForcedText:
        """The context with a completion after it."""
        if isinstance(self._context, str) and isinstance(completion, str):
            return self._joined(self._context, completion)
        if isinstance(completion, str):
            completion = list(self._tokenizer.encode(completion, add_special_tokens=False))
        ids = self._context if isinstance(self._context, list) else self._alone
        return ForcedText([*ids, *completion], len(ids))

    @cached_property
    def _alone(self) -> list[int]:
        """The context's text without a completion."""
        return list(self._tokenizer.encode(self._context, add_special_tokens=self._special))

    def _joined(self, prompt: str, completion: str) -> ForcedText:
        if not getattr(self._tokenizer, "is_fast", False):
            return self._without_offsets(prompt + completion)
        if self._beginning is not None:
            text = self._beginning.followed_by(prompt, completion)
            if text is not None:
                return text
        whole = _encoded(self._tokenizer, prompt, completion, self._special)
        if not self._has_begun and len(prompt) > 2 * MARGIN:
            self._beginning = _beginning(self._tokenizer, prompt, completion, whole)
        self._has_begun = True
        return ForcedText(whole.ids, whole.border)

    def _without_offsets(self, text: str) -> ForcedText:
        """Tokenizers without offsets: what the prompt alone shares with the whole is context."""
        whole = list(self._tokenizer.encode(text, add_special_tokens=self._special))
        shared = 0
        for one, other in zip(whole, self._alone, strict=False):
            if one != other:
                break
            shared += 1
        return ForcedText(whole, shared)


@dataclass(frozen=True)
class _Encoded:
    """Prompt and completion, tokenized together.

    Attributes:
        ids: the tokens.
        ends: where each ends in the text.
        words: number of the word that each is of; None for special tokens.
        border: how many tokens are the prompt's.
        is_text: decoded, the tokens are the text again.
    """

    ids: list[int]
    ends: list[int]
    words: list[int | None]
    border: int
    is_text: bool


def _encoded(tokenizer: Any, prompt: str, completion: str, special: bool) -> _Encoded:
    text = prompt + completion
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
    while ends and ends[-1] == 0 and len(ids) > 1:
        ids.pop()
        ends.pop()
    border = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))

    def decoded(count: int) -> str:
        return str(
            tokenizer.decode(
                ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    # Offsets leave out white space at a token's edge: check the border against the text.
    is_text = decoded(len(ids)) == text  # else decoding is no measure of length
    while is_text and border and len(decoded(border)) > len(prompt):
        border -= 1
    return _Encoded(ids, ends, list(encoded.word_ids())[: len(ids)], border, is_text)


@dataclass(frozen=True)
class _Beginning:
    """The tokens of a prompt's beginning, which every completion has in common.

    Attributes:
        ids: the tokens.
        stop: where they end in the prompt.
        following: the tokens after them, as far as no completion may change them.
        is_text: as in `_Encoded`, of prompt and completion.
    """

    tokenizer: Any
    ids: list[int]
    stop: int
    following: list[int]
    is_text: bool

    def followed_by(self, prompt: str, completion: str) -> ForcedText | None:
        """Prompt and completion; None where all of it has to be tokenized together."""
        rest = _encoded(self.tokenizer, prompt[self.stop :], completion, special=False)
        same = rest.ids[: len(self.following)] == self.following
        if not same or rest.is_text != self.is_text:
            return None
        return ForcedText([*self.ids, *rest.ids], len(self.ids) + rest.border)


def _beginning(tokenizer: Any, prompt: str, completion: str, whole: _Encoded) -> _Beginning | None:
    """The beginning up to a word that stands `MARGIN` characters before the prompt's end.

    None where it cannot be tokenized by itself.
    """
    last = len(prompt) - MARGIN
    starts = [
        index
        for index, (word, following) in enumerate(pairwise(whole.words), 1)
        if None not in (word, following) and word != following and whole.ends[index - 1] <= last
    ]
    if not starts:
        return None
    first, stop = starts[-1], whole.ends[starts[-1] - 1]
    middle = (stop + len(prompt)) // 2
    sure = sum(first_end <= middle for first_end in whole.ends[first:])
    following = whole.ids[first : first + sure]
    found = _Beginning(tokenizer, whole.ids[:first], stop, following, whole.is_text)
    again = found.followed_by(prompt, completion) if following else None
    return found if again == ForcedText(whole.ids, whole.border) else None
