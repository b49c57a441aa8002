"""The engine's client: vLLM's AsyncLLM with our output processor."""

import time
from collections.abc import AsyncGenerator
from typing import Any, Final

from vllm.exceptions import VLLMValidationError
from vllm.inputs import split_enc_dec_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest, PauseMode
from vllm.v1.engine.async_llm import AsyncLLM

from conf_server.engine.adoption import adopt
from conf_server.engine.client.ended_thinking import generate_past_thinking, thinking_to_end
from conf_server.engine.client.output_processor import ConfidenceOutputProcessor

_CHECKED: Final = ("lora_request", "data_parallel_rank")
"""Options of a request that vLLM checks when it makes the engine's request of it."""


class ConfidenceAsyncLLM(AsyncLLM):
    """An AsyncLLM in which marked requests receive their log-probabilities as arrays."""

    _asleep = False

    def _run_output_handler(self) -> None:
        # AsyncLLM calls this at the end of __init__. The handler that it starts keeps a
        # reference to self.output_processor, so the attribute must be replaced before.
        if not isinstance(self.output_processor, ConfidenceOutputProcessor):
            self.output_processor = adopt(ConfidenceOutputProcessor, self.output_processor)
        super()._run_output_handler()

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """AsyncLLM's, but a request that streams is checked when this is called.

        AsyncLLM checks it when its first output is awaited, and then an HTTP answer has begun
        with a 200: the client would find the refusal inside of a stream.
        """
        if sampling_params.output_kind == RequestOutputKind.DELTA:
            self._check(prompt, sampling_params, request_id, options)
        generate = super().generate
        if thinking_to_end(sampling_params) is None:
            return generate(prompt, sampling_params, request_id, **options)
        most = self.model_config.max_model_len
        return generate_past_thinking(generate, prompt, sampling_params, request_id, most, options)

    async def add_request(self, request_id: str, *args: Any, **kwargs: Any) -> Any:
        """AsyncLLM's; a request that cannot be serialized is refused as one.

        Raises:
            VLLMValidationError: a number in it has more than 64 bits, or a text half of a
                surrogate pair.
        """
        try:
            return await super().add_request(request_id, *args, **kwargs)
        except (OverflowError, UnicodeEncodeError) as error:
            raise VLLMValidationError(f"The request cannot be serialized: {error}.") from error

    async def _add_request(self, request: EngineCoreRequest, *args: Any, **kwargs: Any) -> None:
        """AsyncLLM's, but a request that does not reach the engine does not stay registered.

        AsyncLLM registers it first. One that fails then, or whose client leaves meanwhile, would
        count as unfinished for ever: towards --max-num-queued-reqs, and in a drain.
        """
        try:
            await super()._add_request(request, *args, **kwargs)
        except BaseException:
            await self.abort(request.request_id, internal=True)
            raise

    async def sleep(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """AsyncLLM's. Until it wakes up, the engine's silence means nothing."""
        await super().sleep(level, mode)
        self._asleep = True

    async def wake_up(self, tags: list[str] | None = None) -> Any:
        """AsyncLLM's. From now on silence counts: an engine that fails to wake up is not ready."""
        processor: Any = self.output_processor
        processor.heard_at = time.monotonic()
        self._asleep = False
        result = await super().wake_up(tags)
        self._asleep = tags is not None and await self.is_sleeping()
        return result

    @property
    def silence_s(self) -> float:
        """Seconds since the engine was last heard of; 0 while it sleeps or has nothing to do."""
        processor: Any = self.output_processor
        if self._asleep or not processor.request_states:
            return 0.0
        return time.monotonic() - processor.heard_at

    def check_params(self, sampling_params: SamplingParams) -> None:
        """Refuse now what `generate` would refuse, as far as it does not depend on the prompt.

        Raises:
            VLLMValidationError, ValueError: what AsyncLLM raises for these parameters.
        """
        # The app asks for the tasks before it serves; AsyncLLM keeps them.
        tasks = getattr(self, "_supported_tasks", None)
        if tasks is not None:
            self.input_processor._validate_params(sampling_params, tasks)

    def _check(
        self, prompt: Any, params: SamplingParams, request_id: str, options: dict[str, Any]
    ) -> None:
        """
        Raises:
            VLLMValidationError, ValueError: what AsyncLLM will raise for this request.
        """
        tasks = getattr(self, "_supported_tasks", None)
        kind = prompt.get("type") if isinstance(prompt, dict) else None
        if kind == "token" and tasks is not None:
            # Of a prompt of tokens AsyncLLM makes the engine's request without side effects.
            known = {name: options[name] for name in _CHECKED if name in options}
            self.input_processor.process_inputs(request_id, prompt, params, tasks, **known)
            return
        self.check_params(params)
        if kind is not None:  # a rendered prompt with images or the like
            self.input_processor._validate_model_inputs(*split_enc_dec_input(prompt))
