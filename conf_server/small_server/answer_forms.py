"""The JSON of answers, whole and in chunks: OpenAI's, with confidence where vLLM's server has it.

Log-probabilities are written by `serving.logprobs_encoder`, and stand in the rest as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec

from conf_server.serving.fragments import Vocabulary
from conf_server.serving.trace_delta import TraceDelta
from conf_server.small_server.choices import Choice, Generation

_TURN: Final = 1 << 18
"""Bytes that are joined before other requests have their turn: some milliseconds' work."""

_UNTOLD_MODES: Final = ("stats", "empty")
_NO_LISTS: Final = b'"text_offset":[],"token_logprobs":[],"tokens":[],"top_logprobs":[]'


@dataclass(frozen=True)
class AnswerForm:
    """How one request is answered.

    Attributes:
        name: the answer's id.
        model: the name under which the model answers.
        vocabulary: texts of tokens as the request wants them.
        shows_ids: whether the ids of tokens are answered as well.
        created: seconds since 1970.
    """

    generation: Generation
    name: str
    model: str
    vocabulary: Vocabulary
    shows_ids: bool
    created: int

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    @classmethod
    def make(
        cls, generation: Generation, model: str, vocabulary: Vocabulary, shows_ids: bool
    ) -> AnswerForm:
        name = generation.caller.request_id
        return cls(generation, name, model, vocabulary, shows_ids, int(time.time()))

    async def whole(self, choices: Sequence[Choice]) -> bytes:
        """The body of an answer that is complete."""
        made = []
        for choice in choices:
            logprobs, extras = None, dict[str, Any]()
            if self.generation.confidence is not None:
                delta = choice.delta(self.generation.confidence, 0)
                logprobs = msgspec.Raw(await joined(self.logprobs(delta, choice)))
                extras = delta.extras()
            fields = self.choice(choice, logprobs, extras) | self._early_stop(choice)
            if self.shows_ids:
                fields |= {"token_ids": choice.token_ids, **self.prompt_ids_of(choice)}
            made.append(fields)
        body = self._frame(self.kind, made) | {"usage": self.usage(choices)}
        return msgspec.json.encode(body | self.prompt_ids())

    def opening(self, choices: Sequence[Choice]) -> bytes:
        """The events that a stream begins with, if any."""
        return b""

    async def chunk(
        self, choice: Choice, text: str, start: int, usage: dict[str, Any] | None
    ) -> bytes:
        """An event with what is new of an answer.

        Args:
            text: that is new.
            start: number of the first new token.
            usage: so far, where every chunk is to have it.
        """
        logprobs, extras = None, dict[str, Any]()
        if self.generation.confidence is not None:
            delta = choice.delta(self.generation.confidence, start)
            logprobs = msgspec.Raw(await joined(self.logprobs(delta, choice)))
            extras = delta.extras()
        fields = self.part(choice, text, logprobs, extras)
        if choice.finish_reason is not None:
            fields |= self._early_stop(choice)
        if self.shows_ids:
            fields["token_ids"] = choice.token_ids[start:]
            if not start:
                fields |= self.prompt_ids_of(choice)
        return self._event([fields], usage)

    def ending(self, choices: Sequence[Choice]) -> bytes:
        """The event with the usage of all answers."""
        return self._event([], self.usage(choices))

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Tokens of all prompts and answers so far."""
        prompt = self.generation.prompt_tokens
        completion = sum(choice.num_tokens for choice in choices)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": None,
        }

    def logprobs(self, delta: TraceDelta, choice: Choice) -> Iterable[bytes]:
        """The object `logprobs` of a choice, piece by piece."""
        raise NotImplementedError

    def choice(
        self, choice: Choice, logprobs: msgspec.Raw | None, extras: dict[str, Any]
    ) -> dict[str, Any]:
        """A complete answer, with `extras` as for `part`."""
        raise NotImplementedError

    def part(
        self, choice: Choice, text: str, logprobs: msgspec.Raw | None, extras: dict[str, Any]
    ) -> dict[str, Any]:
        """What is new of an answer.

        Args:
            extras: what the answer gains where it ends.
        """
        raise NotImplementedError

    def _early_stop(self, choice: Choice) -> dict[str, Any]:
        """Where an answer was ended early, if the request names a rule."""
        confidence = self.generation.confidence
        if confidence is None or confidence.early_stop is None:
            return {}
        delta = choice.delta(confidence, choice.num_tokens)
        return {"early_stop": delta.early_stop(choice.stop_reason)}

    def prompt_ids(self) -> dict[str, Any]:
        """The prompt's tokens, where vLLM's server has them beside the answers."""
        return {}

    def prompt_ids_of(self, choice: Choice) -> dict[str, Any]:
        """The prompt's tokens, where vLLM's server has them in each answer."""
        return {}

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _event(
        self,
        choices: list[dict[str, Any]],
        usage: dict[str, Any] | None,
        more: dict[str, Any] | None = None,
    ) -> bytes:
        body = self._frame(self.chunk_kind, choices) | (more or {})
        if usage is not None:
            body["usage"] = usage
        return b"data: %b\n\n" % msgspec.json.encode(body)


class ChatForm(AnswerForm):
    """Of /v1/chat/completions."""

    prefix: ClassVar[str] = "chatcmpl"
    kind: ClassVar[str] = "chat.completion"
    chunk_kind: ClassVar[str] = "chat.completion.chunk"

    def logprobs(self, delta: TraceDelta, choice: Choice) -> Iterator[bytes]:
        mode = delta.confidence.mode
        yield b'{"content":'
        if mode in _UNTOLD_MODES or delta.start == delta.stop:
            yield b"[]"
        else:
            shown = self.generation.shown if mode == "per_token" else 0
            tokens = delta.encoded(self.vocabulary)
            yield from tokens.chat(shown, delta.columns(), delta.metrics())
        yield _members_behind(delta.extras()) + b"}"

    def choice(
        self, choice: Choice, logprobs: msgspec.Raw | None, extras: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "index": choice.index,
            # The stream's accumulated message has them too; see `part`.
            "message": {"role": "assistant", "content": choice.text, "refusal": None, **extras},
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def opening(self, choices: Sequence[Choice]) -> bytes:
        delta = {"role": "assistant", "content": ""}
        made = [
            {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
            for choice in choices
        ]
        return b"".join(self._event([fields], None, self.prompt_ids()) for fields in made)

    def part(
        self, choice: Choice, text: str, logprobs: msgspec.Raw | None, extras: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "index": choice.index,
            # `chat.completions.stream()` of the openai client keeps what stands in deltas.
            "delta": {"content": text, **extras},
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": self.generation.asks[0][1]} if self.shows_ids else {}


class CompletionForm(AnswerForm):
    """Of /v1/completions."""

    prefix: ClassVar[str] = "cmpl"
    kind: ClassVar[str] = "text_completion"
    chunk_kind: ClassVar[str] = "text_completion"

    def logprobs(self, delta: TraceDelta, choice: Choice) -> Iterator[bytes]:
        mode = delta.confidence.mode
        yield b"{"
        if mode in _UNTOLD_MODES or delta.start == delta.stop:
            yield _NO_LISTS
        else:
            shown = self.generation.shown if mode == "per_token" else None
            lists, choice.text_length = delta.encoded(self.vocabulary).completion(
                shown, choice.text_length, delta.columns(), delta.metrics()
            )
            yield from lists
        yield _members_behind(delta.extras()) + b"}"

    def choice(
        self, choice: Choice, logprobs: msgspec.Raw | None, extras: dict[str, Any]
    ) -> dict[str, Any]:
        return self.part(choice, choice.text, logprobs, extras)

    def part(
        self, choice: Choice, text: str, logprobs: msgspec.Raw | None, extras: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def prompt_ids_of(self, choice: Choice) -> dict[str, Any]:
        asks = self.generation.asks
        return {"prompt_token_ids": asks[choice.index // asks[0][0].n][1]}


def _members_behind(extras: dict[str, Any]) -> bytes:
    """The members of an object with a comma before them, for the end of another one."""
    return b"," + msgspec.json.encode(extras)[1:-1] if extras else b""


async def joined(pieces: Iterable[bytes]) -> bytes:
    """All pieces. Other requests go on meanwhile: those of a long answer take seconds to make."""
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > _TURN:
            size = 0
            await asyncio.sleep(0)
    return b"".join(parts)
