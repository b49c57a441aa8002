"""Keeping the log-probabilities of marked requests as arrays in the API process.

vLLM makes a Python object with decoded text of every candidate of every token. For a marked
request (`marks.set_mark`) the engine's rows are appended to a `TokenTrace` instead. All other
requests keep vLLM's own processing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from vllm.logger import init_logger
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.engine.output_processor import OutputProcessor, OutputProcessorOutput
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.outputs import LogprobsLists, LogprobsTensors

from conf_server.engine.adoption import adopt
from conf_server.engine.marks import PromptMark, StatesMark, early_stop_of, mark_of
from conf_server.engine.states_wire import taken_states
from conf_server.stats.early_stop import STOP_REASON
from conf_server.stats.row_layout import FIRST_CANDIDATE, EngineRows, RowLayout
from conf_server.stats.trace import TokenTrace

logger = init_logger("vllm.conf_server.output_processor")


class SampleTrace:
    """What a marked request finds in `CompletionOutput.logprobs`: the whole trace, always.

    vLLM slices and extends this field when it cuts a stream into deltas. Both return the
    same object here. A reader counts the tokens of the deltas that it was handed, and so
    knows which rows of the trace are new.

    Attributes:
        trace: the tokens.
        thinking_tokens: how many of them are thinking that `EarlyStop` has ended; None where it
            has ended none.
    """

    __slots__ = ("thinking_tokens", "trace")

    def __init__(self, layout: RowLayout) -> None:
        self.trace = TokenTrace(layout.candidates, layout.groups)
        self.thinking_tokens: int | None = None

    @classmethod
    def of(cls, trace: TokenTrace) -> SampleTrace:
        """A trace that is complete, as the request's output has it."""
        made = cls(trace.layout)
        made.trace = trace
        return made

    def __len__(self) -> int:
        return len(self.trace)

    def __getitem__(self, part: slice) -> SampleTrace:
        return self

    def __iter__(self) -> Iterator[Any]:
        """There are no objects of single tokens, which /v1/responses would collect."""
        return iter(())

    def extend(self, other: SampleTrace) -> None:
        if other is not self:
            raise ValueError("deltas of two different traces")


class SampleTraceProcessor(LogprobsProcessor):
    """Keeps the log-probabilities of one request's generated tokens as arrays."""

    def _update_sample_logprobs(self, logprobs_lists: LogprobsLists) -> None:
        container: Any = self.logprobs
        ids, logprobs, ranks, *_ = logprobs_lists
        container.trace.append(ids, logprobs, ranks)

    def accepts(self, output: EngineCoreOutput) -> bool:
        """Whether the output has the columns that the request has asked for."""
        container: Any = self.logprobs
        trace: TokenTrace = container.trace
        if output.new_logprobs is None:
            return True
        rows = EngineRows(*output.new_logprobs[:3])
        if not trace.layout.fits(rows):
            return False
        # The likeliest token never has probability 0. Where it seems so, V1 has filled the row
        # up, since another request of the step has named more tokens than this one wants.
        return not trace.width or -math.inf not in rows.logprobs[:, FIRST_CANDIDATE].tolist()


class PromptTraceProcessor(LogprobsProcessor):
    """Keeps the log-probabilities of one request's prompt as arrays."""

    def _update_prompt_logprobs(self, prompt_logprobs_tensors: LogprobsTensors) -> None:
        trace: Any = self.prompt_logprobs
        ids, logprobs, ranks, *_ = prompt_logprobs_tensors
        trace.append(ids.numpy(), logprobs.numpy(), ranks.numpy())

    def accepts(self, output: EngineCoreOutput) -> bool:
        """Whether the output has the columns that the request has asked for."""
        trace: Any = self.prompt_logprobs
        tensors = output.new_prompt_logprobs_tensors
        return tensors is None or trace.layout.fits(EngineRows(*tensors[:3]))


class StatesProcessor(LogprobsProcessor):
    """Keeps the hidden states and attention weights of one request's prompt as arrays."""

    def _update_prompt_logprobs(self, prompt_logprobs_tensors: LogprobsTensors) -> None:
        states: Any = taken_states(prompt_logprobs_tensors)
        self.prompt_logprobs = states


class WholeTextDetokenizer(IncrementalDetokenizer):
    """Decodes the last token of an answer that is ended early; vLLM takes it for a stop token.

    It is mixed in before one of vLLM's detokenizers.

    Attributes:
        ends_early: whether the coming tokens end the answer so.
    """

    ends_early = False

    def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        return super().update(new_token_ids, stop_terminated and not self.ends_early)


class ConfidenceOutputProcessor(OutputProcessor):
    """vLLM's output processor, with arrays for the requests that ask for them.

    Attributes:
        heard_at: when the engine was last heard of, or was asked for something after it had
            nothing to do; by `time.monotonic`.
    """

    heard_at: float = 0.0

    def add_request(
        self,
        request: EngineCoreRequest,
        prompt: str | None,
        parent_req: ParentRequest | None = None,
        request_index: int = 0,
        queue: Any = None,
    ) -> None:
        if not self.request_states:
            self.heard_at = time.monotonic()
        # This comes first, so that a failure here leaves no request behind.
        processor = _trace_processor(request)
        is_new = request.request_id not in self.request_states
        super().add_request(request, prompt, parent_req, request_index, queue)
        if is_new and processor is not None:
            state = self.request_states[request.request_id]
            state.logprobs_processor = processor
            if early_stop_of(request.sampling_params) is not None and state.detokenizer is not None:
                state.detokenizer = adopt(WholeTextDetokenizer, state.detokenizer)

    def process_outputs(
        self, engine_core_outputs: list[EngineCoreOutput], *args: Any, **kwargs: Any
    ) -> OutputProcessorOutput:
        """As in vLLM, but a request whose rows do not fit it ends with an error, alone."""
        failed = [output for output in engine_core_outputs if not self._accepts(output)]
        unfinished = [output.request_id for output in failed if not output.finished]
        for output in failed:
            logger.error("Request %s got rows that are not its own.", output.request_id)
            output.new_token_ids = []  # a stop string in them would end the request regularly
            output.new_logprobs = output.new_prompt_logprobs_tensors = None
            output.finish_reason = FinishReason.ERROR
        for output in engine_core_outputs:
            if output.stop_reason == STOP_REASON:
                self._keep_last_token(output)
        processed = super().process_outputs(engine_core_outputs, *args, **kwargs)
        processed.reqs_to_abort.extend(unfinished)
        return processed

    def update_scheduler_stats(self, scheduler_stats: Any) -> None:
        # vLLM calls this for each of the engine's messages, those without tokens included.
        self.heard_at = time.monotonic()
        super().update_scheduler_stats(scheduler_stats)

    def _keep_last_token(self, output: EngineCoreOutput) -> None:
        state = self.request_states.get(output.request_id)
        detokenizer = state.detokenizer if state is not None else None
        if isinstance(detokenizer, WholeTextDetokenizer):
            detokenizer.ends_early = True

    def _accepts(self, output: EngineCoreOutput) -> bool:
        state = self.request_states.get(output.request_id)
        processor = state.logprobs_processor if state is not None else None
        if isinstance(processor, (SampleTraceProcessor, PromptTraceProcessor)):
            return processor.accepts(output)
        return True


def _trace_processor(request: EngineCoreRequest) -> LogprobsProcessor | None:
    """The processor for a marked request; None for any other request."""
    mark = mark_of(request.sampling_params)
    if mark is None:
        return None
    if isinstance(mark, StatesMark):
        return StatesProcessor.from_new_request(None, request)
    if isinstance(mark, PromptMark):
        prompt = PromptTraceProcessor.from_new_request(None, request)
        layout = mark.layout(prompt.num_prompt_logprobs or 0)
        trace: Any = TokenTrace(layout.candidates, layout.groups)
        prompt.prompt_logprobs = trace
        return prompt
    samples = SampleTraceProcessor.from_new_request(None, request)
    assert samples.num_logprobs is not None
    container: Any = SampleTrace(mark.layout(samples.num_logprobs))
    samples.logprobs = container
    samples.cumulative_logprob = None
    return samples
