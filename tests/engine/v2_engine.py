"""One engine on vLLM's V2 model runner: requests in, token traces out, both as JSON files.

Requests are answered one after the other, and those that are named as a crowd at once, at the end.

A script of its own because the switch to V2 and to Triton's interpreter is thrown by
environment variables that every process of the engine must find before it imports vLLM.

Two kernels of vLLM 0.32 are beyond the interpreter, and a request that needs one kills the
engine: top-k/top-p sampling and structured outputs. Greedy, temperature, min-p and penalties
work.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import REGISTRY
from vllm import AsyncEngineArgs, SamplingParams, TokensPrompt
from vllm.sampling_params import RequestOutputKind

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.core.scheduler import use_our_scheduler
from conf_server.engine.marks import Mark, PromptMark, SamplesMark, StatesMark, set_mark
from conf_server.engine.states_support import install_hidden_states
from conf_server.engine.worker.extension import StatisticsExtension

ROW_FIELDS = (
    *("token_ids", "logprobs", "ranks"),
    *("candidate_ids", "candidate_logprobs", "statistics"),
)
"""Those of `TraceRows`."""


class WorkerNames(StatisticsExtension):
    """Joins the worker's class: tells which implementations it has loaded."""

    model_runner: Any

    def names(self) -> dict[str, str]:
        """Qualified class names of the model runner and of what makes log-probabilities."""
        runner = self.model_runner
        parts = ("sampler", "prompt_logprobs_worker")
        return {"model_runner": _name(runner)} | {
            part: _name(getattr(runner, part, None)) for part in parts
        }


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


async def answer_all(
    engine_args: dict[str, Any], requests: dict[str, dict[str, Any]], crowd: list[str]
) -> dict[str, Any]:
    """Start the engine, answer the requests, stop it."""
    arguments = AsyncEngineArgs(**engine_args, worker_extension_cls="v2_engine.WorkerNames")
    config = arguments.create_engine_config()
    use_our_scheduler(config)
    engine = ConfidenceAsyncLLM.from_vllm_config(config)
    try:
        (names,) = await engine.collective_rpc("names")
        assert await engine.collective_rpc("install_token_statistics") == [None]
        support = await install_hidden_states(engine, None, 2**16)
        assert support.obstacle is None, support.obstacle
        answers = {
            name: await answer(engine, name, **what)
            for name, what in requests.items()
            if name not in crowd
        }
        answered = await asyncio.gather(*(answer(engine, name, **requests[name]) for name in crowd))
        answers |= zip(crowd, answered, strict=True)
    finally:
        engine.shutdown()
    labels = {"engine": "0", "model_name": engine_args["model"]}
    preemptions = REGISTRY.get_sample_value("vllm:num_preemptions_total", labels)
    return {"names": names, "answers": answers, "preemptions": preemptions}


async def answer(
    engine: ConfidenceAsyncLLM,
    name: str,
    prompt: list[int],
    params: dict[str, Any],
    samples: dict[str, Any] | None = None,
    scored: dict[str, Any] | None = None,
    states: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One request's cached prompt tokens and the rows of its trace, or its hidden states.

    Args:
        samples, scored, states: fields of the mark, of whichever kind it is.
    """
    sampling = SamplingParams(
        temperature=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **params
    )
    mark: Mark = PromptMark(**(scored or {}))
    if samples is not None:
        mark = msgspec.convert(samples, SamplesMark)
    if states is not None:
        mark = msgspec.convert(states, StatesMark)
    set_mark(sampling, mark)
    async for output in engine.generate(TokensPrompt(prompt_token_ids=prompt), sampling, name):
        final: Any = output
    if states is not None:
        taken = final.prompt_logprobs
        return {
            "num_cached_tokens": final.num_cached_tokens,
            "states": taken.states.tolist(),
            "weights": taken.attention.weights.tolist(),
            "mass": taken.attention.context_mass.tolist(),
        }
    found = final.prompt_logprobs if samples is None else final.outputs[0].logprobs.trace
    rows = found.all()
    return {
        "num_cached_tokens": final.num_cached_tokens,
        "rows": {
            field: values.tolist()
            for field in ROW_FIELDS
            if (values := getattr(rows, field)) is not None
        },
    }


if __name__ == "__main__":
    task, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps(asyncio.run(answer_all(**json.loads(task.read_text())))))
