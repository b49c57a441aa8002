"""The text of an answer while its tokens come, and the stop strings that end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from conf_server.backends.token_texts import added
from conf_server.stats.split_characters import SPLIT, is_split

_PRIMING: Final = 5
"""Tokens of the prompt that are decoded with the answer: a blank that a text begins with is left
out by some tokenizers, and an answer does not begin the text."""


class AnswerText:
    """Turns tokens into text that a client may see, piece by piece.

    Held back are the beginning of a character that later tokens complete, and an end of the text
    that may be the beginning of a stop string.

    Attributes:
        stopped: the stop string that was found; None as long as there is none.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Sequence[int],
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        """
        Args:
            tokenizer: of transformers' kind.
            include_stop: whether a stop string stays in the text.
        """
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._skip_special_tokens = skip_special_tokens
        self._ids = list(prompt)[-_PRIMING:]
        self._begin = 0  # of the tokens that are decoded, so that few are
        self._read = len(self._ids)  # tokens whose text is known
        self._held = ""
        self.stopped: str | None = None

    def push(self, token_id: int, may_stop: bool = True) -> str:
        """The text that may be shown after one more token.

        Args:
            may_stop: whether a stop string that ends within this token's text counts.
        """
        self._ids.append(token_id)
        known = self._decoded(self._begin, self._read)
        whole = self._decoded(self._begin, len(self._ids))
        if is_split(whole):
            return ""
        text = added(known, whole)
        self._begin, self._read = self._read, len(self._ids)
        return self._shown(text, may_stop)

    def finish(self) -> str:
        """What is still held back, when no more tokens come; an incomplete character is not."""
        if self.stopped is not None:
            return ""
        known = self._decoded(self._begin, self._read)
        whole = self._decoded(self._begin, len(self._ids)).rstrip(SPLIT)
        text = self._held + added(known, whole)
        self._held = ""
        return text

    def _decoded(self, begin: int, end: int) -> str:
        decoded = self._tokenizer.decode(
            self._ids[begin:end], skip_special_tokens=self._skip_special_tokens
        )
        return str(decoded)

    def _shown(self, text: str, may_stop: bool) -> str:
        if not self._stop:
            return text
        text = self._held + text
        if not may_stop:
            # Whatever begins here could only end in a later token; what ends here does not count.
            return self._without_beginning(text)
        found = min(
            ((text.find(stop), stop) for stop in self._stop if stop in text),
            key=lambda place: place[0],
            default=None,
        )
        if found is None:
            return self._without_beginning(text)
        place, self.stopped = found
        self._held = ""
        return text[: place + len(self.stopped) if self._include_stop else place]

    def _without_beginning(self, text: str) -> str:
        """The text without what may be a stop string's beginning at its end, which is held back."""
        longest = max(map(len, self._stop)) - 1
        for place in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[place:]) for stop in self._stop):
                self._held = text[place:]
                return text[:place]
        self._held = ""
        return text
