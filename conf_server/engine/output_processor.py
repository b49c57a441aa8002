"""Log-probabilities of confidence requests stay arrays on their way through the API process.

vLLM turns every candidate of every token into a Python object with its decoded text.
A request marked by `marks.set_mark` gets a processor that appends the engine's rows to a
`TokenTrace` instead; every other request keeps vLLM's own.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.outputs import LogprobsLists, LogprobsTensors

from conf_server.engine.marks import Mark, PromptMark, mark_of
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.trace import TokenTrace


class SampleTrace:
    """What a traced request finds in `CompletionOutput.logprobs`: always the whole trace.

    vLLM slices and extends that field to cut deltas. A reader that counts the tokens it
    was handed needs no slices, so here they are free. Its length is the trace's.
    """

    __slots__ = ("trace",)

    def __init__(self, width: int, num_statistics: int = 0) -> None:
        self.trace = TokenTrace(width, num_statistics)

    def __len__(self) -> int:
        return len(self.trace)

    def __getitem__(self, part: slice) -> SampleTrace:
        return self

    def extend(self, other: SampleTrace) -> None:
        if other is not self:
            raise ValueError("deltas of two different traces")


class SampleTraceProcessor(LogprobsProcessor):
    """Keeps the log-probabilities of one request's samples as arrays."""

    def _update_sample_logprobs(self, logprobs_lists: LogprobsLists) -> None:
        container: Any = self.logprobs
        ids, logprobs, ranks, *_ = logprobs_lists
        container.trace.append(ids, logprobs, ranks)


class PromptTraceProcessor(LogprobsProcessor):
    """Keeps the log-probabilities of one request's prompt as arrays."""

    def _update_prompt_logprobs(self, prompt_logprobs_tensors: LogprobsTensors) -> None:
        trace: Any = self.prompt_logprobs
        ids, logprobs, ranks, *_ = prompt_logprobs_tensors
        trace.append(ids.numpy(), logprobs.numpy(), ranks.numpy())


class ConfidenceOutputProcessor(OutputProcessor):
    """vLLM's output processor, with arrays for the requests that ask for them."""

    @classmethod
    def adopt(cls, stock: OutputProcessor) -> ConfidenceOutputProcessor:
        """Take over a processor that has seen no request yet.

        Its state is taken as it is: the constructor's arguments change with every
        vLLM release, and repeating them here would tie us to one.
        """
        processor = cls.__new__(cls)
        processor.__dict__.update(stock.__dict__)
        return processor

    def add_request(
        self,
        request: EngineCoreRequest,
        prompt: str | None,
        parent_req: ParentRequest | None = None,
        request_index: int = 0,
        queue: Any = None,
    ) -> None:
        is_new = request.request_id not in self.request_states
        super().add_request(request, prompt, parent_req, request_index, queue)
        if is_new and (mark := mark_of(request.sampling_params)):
            state = self.request_states[request.request_id]
            state.logprobs_processor = _trace_processor(mark, request, state.logprobs_processor)


def _trace_processor(
    mark: Mark, request: EngineCoreRequest, stock: LogprobsProcessor | None
) -> LogprobsProcessor:
    assert stock is not None
    num_statistics = NUM_TOKEN_STATISTICS if mark.statistics_top_k else 0
    if isinstance(mark, PromptMark):
        prompt = PromptTraceProcessor.from_new_request(None, request)
        width = mark.width if num_statistics else prompt.num_prompt_logprobs
        assert width is not None
        prompt.prompt_logprobs = TokenTrace(width, num_statistics)  # type: ignore[assignment]
        return prompt
    samples = SampleTraceProcessor.from_new_request(stock.tokenizer, request)
    assert samples.num_logprobs is not None
    trace: Any = SampleTrace(samples.num_logprobs, num_statistics)
    samples.logprobs = trace
    samples.cumulative_logprob = None
    return samples
