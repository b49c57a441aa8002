"""POST /v1/think/chat/completions on the engine that serves."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Request
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens

from conf_server.backends.served import verify_params
from conf_server.backends.served_tokens import refused
from conf_server.gathering.trace_maker import MadeTrace
from conf_server.serving.chat import ConfidenceServingChat
from conf_server.serving.confidence import no_early_stop
from conf_server.serving.fields import request_id
from conf_server.serving.host import Host
from conf_server.serving.think_answer import ThinkJob, ready_reader
from conf_server.serving.think_chat import ServedTraces, TraceChat
from conf_server.serving.think_request import ThinkRequest
from conf_server.settings import ConfidenceSettings
from conf_server.thinking.latex_process import LatexProcess


class ServingThink:
    """Checks requests, and makes jobs of them."""

    def __init__(
        self, host: Host, chat: ConfidenceServingChat, settings: ConfidenceSettings
    ) -> None:
        self.host = host
        self._chat = chat
        self._traces = TraceChat.beside(chat)
        self._settings = settings
        self._latex = LatexProcess()

    async def job(self, request: ThinkRequest, raw_request: Request) -> ThinkJob:
        """What is to be done for a request.

        Raises:
            RefusalError: naming the field; the engine has seen nothing yet.
        """
        model = await self.host.model_name(request)
        request.check()
        request.resolve_traces(self._settings, self._chat.model_config)
        confidence = request.resolved_confidence
        assert confidence is not None
        rendered = await self._chat.render_chat_request(request)
        if isinstance(rendered, ErrorResponse):
            raise refused(rendered)
        conversation, (engine_input,) = rendered
        request.rendered = conversation, engine_input
        prompt_tokens = self._chat._extract_prompt_len(engine_input)
        longest = self._longest(request, prompt_tokens)
        params = request.to_sampling_params(longest, self._chat.default_sampling_params)
        verify_params(self._chat, params)
        plan = request.think.plan(
            self._settings,
            confidence.window,
            longest,
            params.seed,
            no_early_stop(confidence.mode, self._settings),
        )
        self.host.check_room(1)  # the others wait for each other where the queue is full
        name = f"think-{request_id(raw_request, request.request_id)}"
        headers = dict(raw_request.headers)
        options = request.stream_options
        return ThinkJob(
            name=name,
            model=model,
            created=int(time.time()),
            plan=plan,
            reader=await ready_reader(plan, self._latex),
            maker=ServedTraces(self._traces, request, name, headers),
            answer=self._answer,
            shown=request.think.traces,
            prompt_tokens=prompt_tokens,
            tells_usage=bool(options and options.include_usage),
        )

    def _longest(self, request: ThinkRequest, prompt_tokens: int) -> int:
        """Tokens that one trace may have, as vLLM's handler finds them."""
        given = request.max_completion_tokens
        return get_max_tokens(
            self._chat.model_config.max_model_len,
            request.max_tokens if given is None else given,
            prompt_tokens,
            self._chat.default_sampling_params,
            self._chat.override_max_tokens,
            truncate_prompt_tokens=request.truncate_prompt_tokens,
        )

    async def _answer(self, made: MadeTrace) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._traces.answer(made.source)).model_dump()
        return answer
