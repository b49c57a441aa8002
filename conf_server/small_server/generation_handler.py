"""/v1/chat/completions and /v1/completions of the small server."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request

from conf_server.backends.base import Caller
from conf_server.backends.streaming import StreamingBackend
from conf_server.refusal import RefusalError
from conf_server.serving.default_estimates import DefaultEstimates
from conf_server.serving.fields import request_id
from conf_server.serving.host import Host
from conf_server.serving.logprobs_encoder import LogprobsEncoder
from conf_server.serving.refusals import refusal_event
from conf_server.settings import ConfidenceSettings
from conf_server.small_server.answer_forms import AnswerForm, ChatForm, CompletionForm
from conf_server.small_server.choices import Choice, Generation, new_choices, pieces
from conf_server.small_server.generation_requests import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from conf_server.small_server.request_metrics import TokenCounters

logger = logging.getLogger("vllm.conf_server.small_server")

MAX_CHOICES: Final = 1024
"""Answers that one request may ask for, of all its prompts."""


@dataclass(frozen=True)
class GenerationDefaults:
    """What holds where a request says nothing.

    Attributes:
        temperature: of the model's generation config, or 1.
        max_tokens: of a chat's answer; None for the room that is left.
    """

    temperature: float = 1.0
    max_tokens: int | None = None


class ServingGeneration:
    """Handler of the two routes that generate text."""

    def __init__(
        self,
        host: Host,
        backend: StreamingBackend,
        settings: ConfidenceSettings,
        encoder: LogprobsEncoder,
        defaults: GenerationDefaults,
        counters: TokenCounters,
        estimates: DefaultEstimates,
    ) -> None:
        self._host = host
        self._backend = backend
        self._settings = settings
        self._encoder = encoder
        self._defaults = defaults
        self._counters = counters
        self._estimates = estimates

    async def create(
        self, request: ChatRequest | CompletionRequest, raw_request: Request
    ) -> bytes | AsyncGenerator[bytes, None]:
        """The body of an answer, or the events of a stream, whose request is right.

        Raises:
            RefusalError: naming the field; no work has been done yet.
        """
        form = await self.form(request, raw_request)
        self.count(form)
        if request.stream:
            return self._events(form, request)
        choices = new_choices(form.generation)
        async with aclosing(pieces(self._backend, form.generation)) as made:
            async for piece in made:
                choices[piece.index].take(piece)
        return await self.whole(form, choices)

    async def whole(self, form: AnswerForm, choices: Sequence[Choice]) -> bytes:
        """The body of an answer whose choices are complete."""
        for choice in choices:
            await self._estimate(form.generation, choice)
        return await form.whole(choices)

    async def _estimate(self, generation: Generation, choice: Choice) -> None:
        """Make the default estimates of an answer that is complete, where it is to have them."""
        told = generation.confidence
        if told is None or told.mode == "empty" or not told.takes_defaults:
            return
        if self._estimates.methods:
            ask, _ = generation.asks[choice.index // generation.asks[0][0].n]
            finished = choice.finish_reason == "stop" and choice.stop_reason is None
            choice.estimates = await self._estimates.of(
                ask.prompt, choice.token_ids, finished, generation.caller.at(str(choice.index))
            )

    def count(self, form: AnswerForm) -> None:
        """Count the prompts of a request whose work begins."""
        self._counters.prompt.inc(form.generation.prompt_tokens)

    async def form(
        self, request: ChatRequest | CompletionRequest, raw_request: Request
    ) -> AnswerForm:
        """How a request is answered.

        Raises:
            RefusalError: naming the field; no work has been done yet.
        """
        model = await self._host.model_name(request)
        limits = self._backend.limits()
        confidence = request.resolved_confidence(
            self._settings, limits.candidates, limits.vocab_size
        )
        kind: type[AnswerForm] = ChatForm if isinstance(request, ChatRequest) else CompletionForm
        caller = _caller(kind.prefix, request, raw_request)
        prompts = request.prompts()
        if len(prompts) * (request.n or 1) > MAX_CHOICES:
            raise RefusalError("n", f"at most {MAX_CHOICES} answers a request, of all prompts.")
        most = self._defaults.max_tokens if isinstance(request, ChatRequest) else None
        asks = []
        for prompt in prompts:
            ask = request.ask(prompt, self._defaults.temperature, most)
            rendered = await self._backend.check(ask, caller)
            asks.append((ask, rendered.token_ids or []))
        self._host.check_room(len(prompts) * (request.n or 1))
        vocabulary = self._encoder.vocabulary(
            self._backend.decode, bool(request.return_tokens_as_token_ids)
        )
        generation = Generation(asks, caller, confidence, request.shown_candidates)
        return kind.make(generation, model, vocabulary, bool(request.return_token_ids))

    async def _events(
        self, form: AnswerForm, request: GenerationRequest
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events. What goes wrong in their midst is an event as well."""
        options = request.stream_options
        choices = new_choices(form.generation)
        try:
            if opening := form.opening(choices):
                yield opening
            tells_usage = bool(options and options.continuous_usage_stats)
            async with aclosing(self._chunks(form, choices, tells_usage)) as chunks:
                async for chunk in chunks:
                    yield chunk
            if options is not None and options.include_usage:
                yield form.ending(choices)
        except RefusalError as error:
            yield refusal_event(error).encode()
        except Exception as error:
            logger.exception("Request %s has failed in its midst.", form.name)
            yield b"data: %b\n\n" % self._host.failure(error).model_dump_json().encode()
        yield b"data: [DONE]\n\n"

    async def _chunks(
        self, form: AnswerForm, choices: list[Choice], tells_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        tells_tokens = form.generation.confidence is not None or form.shows_ids
        async with aclosing(pieces(self._backend, form.generation)) as made:
            async for piece in made:
                choice = choices[piece.index]
                start = choice.num_tokens
                choice.take(piece)
                if piece.finish_reason is not None:
                    await self._estimate(form.generation, choice)
                # Tokens whose text is still to come are told of only where tokens are.
                if piece.text or piece.finish_reason or (tells_tokens and len(piece.rows)):
                    usage: dict[str, Any] | None = form.usage(choices) if tells_usage else None
                    yield await form.chunk(choice, piece.text, start, usage)


def _caller(prefix: str, request: GenerationRequest, raw_request: Request) -> Caller:
    """Who asks; the answer's id begins with `prefix`."""
    answer_id = f"{prefix}-{request_id(raw_request, request.request_id)}"
    return Caller(
        answer_id,
        request.model,
        request.cache_salt,
        request.priority,
        dict(raw_request.headers),
    )
