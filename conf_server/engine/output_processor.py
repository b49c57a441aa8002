"""Log-probabilities of confidence requests stay arrays on their way through the API process.

vLLM turns every candidate of every token into a Python object with its decoded text.
A request marked by `request_trace` gets a processor that appends the engine's rows to a
`TokenTrace` instead; every other request keeps vLLM's own.
"""

from __future__ import annotations

from typing import Any, Literal

from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.outputs import LogprobsLists, LogprobsTensors

from conf_server.stats.trace import TokenTrace

_TRACE_ARG = "conf_server"

Traced = Literal["samples", "prompt"]


def request_trace(params: SamplingParams, what: Traced) -> None:
    """Mark a request: these log-probabilities shall arrive as a `TokenTrace`."""
    # A dict: `vllm_xargs`, the clients' way into extra_args, cannot carry one.
    params.extra_args = {**(params.extra_args or {}), _TRACE_ARG: {"trace": what}}


def traced(params: SamplingParams | None) -> Traced | None:
    """What `request_trace` marked this request for, if it did."""
    if params is None or not params.extra_args:
        return None
    mark = params.extra_args.get(_TRACE_ARG)
    what = mark.get("trace") if isinstance(mark, dict) else None
    return what if what in ("samples", "prompt") else None


class SampleTrace:
    """What a traced request finds in `CompletionOutput.logprobs`: always the whole trace.

    vLLM slices and extends that field to cut deltas. A reader that counts the tokens it
    was handed needs no slices, so here they are free. Its length is the trace's.
    """

    __slots__ = ("trace",)

    def __init__(self, width: int) -> None:
        self.trace = TokenTrace(width)

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
        if is_new and (what := traced(request.sampling_params)):
            state = self.request_states[request.request_id]
            state.logprobs_processor = _trace_processor(what, request, state.logprobs_processor)


def _trace_processor(
    what: Traced, request: EngineCoreRequest, stock: LogprobsProcessor | None
) -> LogprobsProcessor:
    assert stock is not None
    if what == "samples":
        samples = SampleTraceProcessor.from_new_request(stock.tokenizer, request)
        assert samples.num_logprobs is not None
        samples.logprobs = SampleTrace(samples.num_logprobs)  # type: ignore[assignment]
        samples.cumulative_logprob = None
        return samples
    prompt = PromptTraceProcessor.from_new_request(None, request)
    assert prompt.num_prompt_logprobs is not None
    prompt.prompt_logprobs = TokenTrace(prompt.num_prompt_logprobs)  # type: ignore[assignment]
    return prompt
