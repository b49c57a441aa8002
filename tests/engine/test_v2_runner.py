"""Log-probabilities from vLLM's V2 model runner, which GPUs use by default.

V2's own code is Triton kernels. On a GPU they run as they are. Without one, Triton's interpreter
runs them on the CPU: this is slow, but it is the same sampler and the same prompt
log-probabilities. One engine answers every request.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.stats.columns import TokenStatistic
from conf_server.stats.confidence import token_confidence
from conf_server.stats.early_stop import EarlyStop
from tests.devices import SMALL_SHARE, TRITON_DEVICES, TritonDevice
from tests.reference import Reference, token_statistics
from tests.slow_early_stop import looked_up

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="V2 needs Triton's interpreter; triton is not installed"
)

HERE = Path(__file__).parent
START_AND_ANSWER_S = 400
RUNNER = {
    "cpu": "vllm.v1.worker.cpu.model_runner.CPUModelRunner",
    "cuda": "vllm.v1.worker.gpu.model_runner.GPUModelRunner",
}

TOP = 20
BLOCK = 32
CHUNK = 32  # tokens a step: every prompt longer than this is prefilled in chunks
FIRST = 43  # first scored token: inside a block and inside a chunk

QUESTION = "The capital of France is"
CONTEXT = (
    "Bread is made of flour, water, salt and yeast. Knead the dough for ten minutes, let it "
    "rise for an hour in a warm place, then bake it until the crust is brown."
)
COMPLETION = (
    " While it bakes, the kitchen fills with a smell that nobody can resist, and the neighbours "
    "find one reason after the other to knock at the door and to stay for a slice with butter."
)


LAYERS = (0, 15, 30)
ATTENTION: dict[str, Any] = {"layers": (0, 15, 29), "context": FIRST}
STATES: dict[str, dict[str, Any]] = {
    "states of all": {"first": 0, "layers": LAYERS, "pooling": "none", "attention": ATTENTION},
    "mean state after a cached context": {
        **{"first": FIRST, "layers": LAYERS, "pooling": "mean"},
        "attention": ATTENTION,
    },
}

UNENDED = 10  # tokens of an answer that nothing ends
NEVER = {"below": -1.0, "window": 2, "min_tokens": 2}
END_THINK = 5
THINKING = {"start": (4,), "end": (END_THINK,), "forced": (6, END_THINK)}
RULES: dict[str, dict[str, Any]] = {
    "whole": NEVER,
    **{f"ended {below}": {"below": below, "window": 2, "min_tokens": 3} for below in (8.0, 10.0)},
    "thought": {"below": 1000.0, "window": 2, "min_tokens": 4, "thinking": THINKING},
}

# Those of a crowd run at once. Its text takes 6 of the 8 blocks that there are, and the prompts of
# the two others one each: a few generated tokens later there is none left, and the text, which is
# still being read, is preempted.
NUM_BLOCKS = 8
CROWD = {"crowded": list(range(1000, 1180))} | {
    f"generated beside {n}": list(range(500 + n, 528 + n)) for n in range(2)
}


@dataclass
class Answer:
    """What the engine said to one request."""

    num_cached_tokens: int
    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    ranks: NDArray[np.int64]
    candidate_ids: NDArray[np.int64]
    candidate_logprobs: NDArray[np.float64]
    statistics: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass
class Run:
    """Everything that came out of the one engine."""

    names: dict[str, str]
    prompts: dict[str, list[int]]
    answers: dict[str, Answer]
    taken: dict[str, dict[str, Any]]
    preemptions: float


@pytest.fixture(scope="module", params=TRITON_DEVICES)
def device(request: pytest.FixtureRequest) -> TritonDevice:
    return request.param


@pytest.fixture(scope="module")
def run(
    device: TritonDevice,
    model_path: Path,
    reference: Reference,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """One V2 engine that has answered every request of this file, in this order."""
    encode = reference.tokenizer.encode
    context = encode(CONTEXT)
    prompts = {
        "generated": encode(QUESTION),
        "scored": context,
        "again": context,
        "continued": encode(CONTEXT + COMPLETION),
        "one_new_token": context[: BLOCK + 1],
    }
    score = {"max_tokens": 1, "prompt_logprobs": TOP, "skip_reading_prefix_cache": False}
    requests: dict[str, Any] = {
        name: {"prompt": ids, "params": score} for name, ids in prompts.items()
    }
    for name in ("again", "continued", "one_new_token"):
        requests[name]["scored"] = {"first": BLOCK + 1}
    requests["generated"] |= {"samples": {}, "params": {"max_tokens": 4, "logprobs": TOP}}
    requests["statistics"] = {
        "prompt": prompts["generated"],
        "samples": {"statistics_top_k": 7, "deferred": True},
        "params": {"max_tokens": 3, "logprobs": 0},
    }
    requests |= {
        name: {
            "prompt": prompts["generated"],
            "samples": {"statistics_top_k": 20, "deferred": True, "early_stop": rule},
            "params": {"max_tokens": UNENDED, "logprobs": 0, "ignore_eos": True},
        }
        for name, rule in RULES.items()
    }
    forced = {"statistics_top_k": 7, "first": FIRST, "candidates": 3, "ranks": True}
    for name in ("forced", "forced again"):
        prompts[name] = prompts["continued"]
        requests[name] = {"prompt": prompts[name], "scored": forced, "params": {"max_tokens": 1}}
    for name, states in STATES.items():
        prompts[name] = prompts["continued"]
        requests[name] = {"prompt": prompts[name], "states": states, "params": {"max_tokens": 1}}
    prompts |= CROWD
    for name, prompt in CROWD.items():
        requests[name] = {
            "prompt": prompt,
            "samples": {},
            "params": {"max_tokens": 12, "logprobs": TOP, "ignore_eos": True},
        }
    requests["crowded"] = {
        "prompt": CROWD["crowded"],
        "states": STATES["states of all"],
        "params": {"max_tokens": 1},
    }
    engine_args = {
        "model": str(model_path),
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": BLOCK,
        "kv_cache_memory_bytes": 2**28,
        "gpu_memory_utilization": SMALL_SHARE if device.name == "cuda" else 0.5,
        "num_gpu_blocks_override": NUM_BLOCKS + 1,  # one is vLLM's own
        "max_model_len": 256,
        "max_num_batched_tokens": CHUNK,
        "max_num_seqs": 4,
    }
    # The generations come first: a request that came later is the one to be preempted.
    task = {"engine_args": engine_args, "requests": requests, "crowd": [*reversed(CROWD)]}
    result = run_engine(task, device, tmp_path_factory.mktemp("v2"))
    answers = {
        name: Answer(
            num_cached_tokens=answer["num_cached_tokens"],
            **{field: np.array(values) for field, values in answer["rows"].items()},
        )
        for name, answer in result["answers"].items()
        if "states" not in answer
    }
    taken = {name: answer for name, answer in result["answers"].items() if "states" in answer}
    return Run(result["names"], prompts, answers, taken, result["preemptions"])


def run_engine(task: dict[str, Any], device: TritonDevice, folder: Path) -> dict[str, Any]:
    """Run `v2_engine.py` on a task; nothing it has started outlives this call."""
    (folder / "task.json").write_text(json.dumps(task))
    command = [sys.executable, HERE / "v2_engine.py", folder / "task.json", folder / "result.json"]
    environment = device.environment() | {"VLLM_USE_V2_MODEL_RUNNER": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(START_AND_ANSWER_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, (folder / "log").read_text()[-10_000:]
    return json.loads((folder / "result.json").read_text())


def assert_matches(answer: Answer, expected: NDArray[np.float64], top: int = TOP) -> None:
    """Token, candidates, confidence and rank of every row are the reference's."""
    own = np.take_along_axis(expected, answer.token_ids[:, None], axis=1)
    best = -np.sort(-expected, axis=1)[:, :top]
    chosen = np.take_along_axis(expected, answer.candidate_ids, axis=1)
    confidence = token_confidence(answer.candidate_logprobs, top)
    close = {"rtol": 0, "atol": 1e-3}
    np.testing.assert_allclose(answer.logprobs, own[:, 0], **close)
    np.testing.assert_allclose(answer.candidate_logprobs, best, **close)
    np.testing.assert_allclose(chosen, best, **close)
    np.testing.assert_allclose(confidence, token_confidence(best, top), **close)
    # Deep in the vocabulary, tokens lie closer together than float32 tells apart.
    np.testing.assert_allclose(answer.ranks, (expected >= own).sum(axis=1), rtol=1e-3)


def test_v2_is_in_use(run: Run, device: TritonDevice) -> None:
    assert run.names == {
        "model_runner": RUNNER[device.name],
        "sampler": "vllm.v1.worker.gpu.sample.sampler.Sampler",
        "prompt_logprobs_worker": "vllm.v1.worker.gpu.sample.prompt_logprob.PromptLogprobsWorker",
    }


def test_generated_tokens(run: Run, reference: Reference) -> None:
    answer, prompt = run.answers["generated"], run.prompts["generated"]
    expected = reference.logprobs([*prompt, *answer.token_ids.tolist()])[len(prompt) - 1 :]
    assert len(answer) == 4
    assert answer.token_ids.tolist() == expected.argmax(axis=1).tolist()
    assert_matches(answer, expected)


def test_generated_tokens_with_statistics(run: Run, reference: Reference) -> None:
    answer, prompt = run.answers["statistics"], run.prompts["generated"]
    expected = reference.logprobs([*prompt, *answer.token_ids.tolist()])[len(prompt) - 1 :]
    assert answer.candidate_ids.shape == (3, 0)
    np.testing.assert_allclose(answer.logprobs, expected.max(axis=1), rtol=0, atol=1e-3)
    np.testing.assert_allclose(answer.statistics, token_statistics(expected, 7), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", [name for name in RULES if name.startswith("ended")])
def test_an_answer_ends_where_the_whole_says(run: Run, name: str) -> None:
    whole, ended = run.answers["whole"], run.answers[name]
    assert whole.statistics is not None
    assert len(whole) == UNENDED
    at = looked_up(
        EarlyStop(**RULES[name]), whole.statistics[:, TokenStatistic.CONFIDENCE].tolist()
    )
    assert at is not None
    assert ended.token_ids.tolist() == whole.token_ids[:at].tolist()


def test_thinking_is_ended(run: Run) -> None:
    whole, thought = run.answers["whole"], run.answers["thought"]
    assert thought.token_ids.tolist()[:6] == [*whole.token_ids[:4].tolist(), 6, END_THINK]
    assert len(thought) == UNENDED
    assert thought.statistics is not None
    assert whole.statistics is not None
    # The row of a token that was put in is of what the model itself thinks.
    np.testing.assert_allclose(thought.statistics[:5], whole.statistics[:5], rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["forced", "forced again"])
def test_forced_rows_begin_with_the_first_scored_token(
    name: str, run: Run, reference: Reference
) -> None:
    """All of the text is cached, and the hit is cut where rows begin."""
    answer, prompt = run.answers[name], run.prompts[name]
    assert len(prompt) > 2 * BLOCK > FIRST
    assert answer.num_cached_tokens == BLOCK
    assert answer.token_ids.tolist() == prompt[FIRST:]
    expected = reference.logprobs(prompt)[FIRST - 1 :]
    assert_matches(answer, expected, top=3)
    np.testing.assert_allclose(answer.statistics, token_statistics(expected, 7), rtol=0, atol=2e-3)


def test_scored_prompt(run: Run, reference: Reference) -> None:
    answer, prompt = run.answers["scored"], run.prompts["scored"]
    assert len(prompt) > CHUNK
    assert answer.num_cached_tokens == 0
    assert answer.token_ids.tolist() == prompt[1:]
    assert_matches(answer, reference.logprobs(prompt))


def test_cached_rows_are_left_out_and_the_others_unchanged(run: Run) -> None:
    cold, warm = run.answers["scored"], run.answers["again"]
    new = len(run.prompts["again"]) - BLOCK - 1
    assert warm.num_cached_tokens == BLOCK
    assert len(warm) == new
    assert warm.token_ids.tolist() == cold.token_ids[-new:].tolist()
    assert warm.candidate_ids.tolist() == cold.candidate_ids[-new:].tolist()
    np.testing.assert_allclose(warm.logprobs, cold.logprobs[-new:], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        warm.candidate_logprobs, cold.candidate_logprobs[-new:], rtol=0, atol=1e-4
    )


def test_new_rows_after_a_cached_context_in_chunks(run: Run, reference: Reference) -> None:
    answer, prompt = run.answers["continued"], run.prompts["continued"]
    assert len(prompt) - BLOCK > CHUNK
    assert answer.num_cached_tokens == BLOCK
    assert answer.token_ids.tolist() == prompt[BLOCK + 1 :]
    assert_matches(answer, reference.logprobs(prompt)[BLOCK:])


def test_no_row_is_left_when_only_the_last_token_is_new(run: Run) -> None:
    answer = run.answers["one_new_token"]
    assert answer.num_cached_tokens == BLOCK
    assert len(answer) == 0


def inner_states(reference: Reference, prompt: list[int]) -> NDArray[np.float32]:
    """(layers, n, d) of transformers."""
    return reference.hidden_states(prompt, LAYERS, 0)


def assert_same_states(taken: dict[str, Any], expected: NDArray[np.float32], scale: Any) -> None:
    np.testing.assert_allclose(taken["states"] / scale, expected / scale, rtol=0, atol=1e-4)


def assert_same_weights(
    taken: dict[str, Any], prompt: list[int], reference: Reference, first: int
) -> None:
    attention = reference.attention(prompt, ATTENTION["layers"])
    rows = np.arange(first, len(prompt))
    own = attention[:, :, rows, rows].transpose(0, 2, 1)
    mass = attention[:, :, rows, :FIRST].sum(-1).transpose(0, 2, 1)
    np.testing.assert_allclose(np.array(taken["weights"])[..., 0], own, rtol=0, atol=1e-4)
    np.testing.assert_allclose(taken["mass"], mass, rtol=0, atol=1e-4)


def test_hidden_states(run: Run, reference: Reference) -> None:
    expected = inner_states(reference, run.prompts["states of all"])
    scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
    for name, right, cached in (
        ("states of all", expected, 0),
        ("mean state after a cached context", expected[:, FIRST:].mean(1, keepdims=True), BLOCK),
    ):
        assert run.taken[name]["num_cached_tokens"] == cached
        assert_same_states(run.taken[name], right, scale)


def test_attention_weights(run: Run, reference: Reference) -> None:
    for name, first in (("states of all", 0), ("mean state after a cached context", FIRST)):
        assert_same_weights(run.taken[name], run.prompts[name], reference, first)


def test_preemption_and_company_change_nothing(run: Run, reference: Reference) -> None:
    assert run.preemptions > 0
    prompt, taken = run.prompts["crowded"], run.taken["crowded"]
    expected = inner_states(reference, prompt)
    assert_same_states(taken, expected, np.abs(expected).max(axis=(1, 2), keepdims=True))
    assert_same_weights(taken, prompt, reference, 0)
    for name in CROWD.keys() - {"crowded"}:
        answer, before = run.answers[name], run.prompts[name]
        assert len(answer) == 12
        tokens = [*before, *answer.token_ids.tolist()]
        assert_matches(answer, reference.logprobs(tokens)[len(before) - 1 :])
