"""Where the schedulers end answers, against a look at whole ones. vLLM's schedulers; no model.

The worker is played: it knows what confidence each token of each answer has.
"""

from __future__ import annotations

import gc
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vllm import AsyncEngineArgs
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from conf_server.engine.core.scheduler import ConfidenceAsyncScheduler, ConfidenceScheduler
from conf_server.engine.marks import SamplesMark, set_mark
from conf_server.stats.columns import NUM_TOKEN_STATISTICS, TokenStatistic
from conf_server.stats.early_stop import STOP_REASON, EarlyStop, ThinkingTokens
from tests.slow_early_stop import looked_up

BLOCK = 4
AHEAD = {ConfidenceScheduler: 1, ConfidenceAsyncScheduler: 2}
"""Steps that are scheduled before the oldest of them has come back."""

TOKEN, END = 7, 9
THINKING = ThinkingTokens(start=(8,), end=(END,), forced=(END,))


@dataclass
class Answer:
    """What is asked for, and what has come.

    Attributes:
        confidences: of the tokens, if nothing ended the answer.
        tokens: of the answer, likewise.
        rows: confidences in the rows that have come.
    """

    request: Request
    confidences: list[float]
    tokens: list[int]
    ids: list[int] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: Any = None


def answer(
    name: str,
    rule: EarlyStop | None,
    confidences: list[float],
    prompt: int = 5,
    deferred: bool = True,
    end_at: int | None = None,
    min_tokens: int = 0,
) -> Answer:
    params = SamplingParams(
        max_tokens=len(confidences), min_tokens=min_tokens, logprobs=0, ignore_eos=True
    )
    set_mark(params, SamplesMark(3, deferred, rule))
    request = Request(
        request_id=name,
        prompt_token_ids=[hash(name) % 1000, *range(100, 99 + prompt)],
        sampling_params=params,
        pooling_params=None,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
    )
    tokens = [TOKEN] * len(confidences)
    if end_at is not None:
        tokens[end_at] = END
    return Answer(request, confidences, tokens)


class Worker:
    """Samples what the answers say."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self._answers = answers
        self._known: dict[str, int] = {}

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        computed = {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
        self._known |= {name: len(self._prompt(name)) for name in computed}
        cached = step.scheduled_cached_reqs
        computed |= zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        for name in cached.resumed_req_ids:
            self._known[name] = len(cached.all_token_ids[name])
        names = list(step.num_scheduled_tokens)
        sampled = [self._sampled(name, computed[name], step) for name in names]
        rows = np.full((len(names), 1 + NUM_TOKEN_STATISTICS), np.nan, np.float32)
        for row, (_, confidence) in zip(rows, sampled, strict=True):
            row[1 + TokenStatistic.CONFIDENCE] = confidence
        ids = np.array([tokens or [0] for tokens, _ in sampled], np.int32).reshape(-1, 1)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[tokens for tokens, _ in sampled],
            logprobs=LogprobsLists(ids, rows, np.ones(len(names), np.int64)),
        )

    def _prompt(self, name: str) -> list[int]:
        return self._answers[name].request.prompt_token_ids or []

    def _sampled(self, name: str, computed: int, step: SchedulerOutput) -> tuple[list[int], float]:
        if computed + step.num_scheduled_tokens[name] < self._known[name]:
            return [], math.nan
        made = self._answers[name]
        index = self._known[name] - len(self._prompt(name))
        self._known[name] += 1
        if index >= len(made.tokens):  # a step in flight goes beyond the end
            return [TOKEN], math.nan
        return [made.tokens[index]], made.confidences[index]


@pytest.fixture(scope="module")
def config(model_path: Path) -> VllmConfig:
    init_none_hash(sha256)
    arguments = AsyncEngineArgs(
        model=str(model_path), max_model_len=256, max_num_batched_tokens=24, max_num_seqs=16
    )
    return arguments.create_engine_config()


def scheduler(kind: type[ConfidenceScheduler], config: VllmConfig, blocks: int) -> Any:
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config.cache_config.num_gpu_blocks = blocks
    caches = KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)])
    return kind(config, caches, StructuredOutputManager(config), BLOCK, log_stats=True)


def run(made: Any, answers: list[Answer], abort_after: dict[str, int] | None = None) -> None:
    """Answer everything, with as many steps in flight as the scheduler's kind has."""
    by_name = {one.request.request_id: one for one in answers}
    worker = Worker(by_name)
    flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
    for one in answers:
        made.add_request(one.request)
    for number in range(100_000):
        if not made.has_unfinished_requests() and not flight:
            return
        step = made.schedule()
        if step.total_num_scheduled_tokens:
            flight.append((step, worker.run(step)))
        if flight and (len(flight) == AHEAD[type(made)] or not step.total_num_scheduled_tokens):
            for output in _outputs(made.update_from_output(*flight.popleft())):
                _take(by_name[output.request_id], output)
        leaving = [name for name, when in (abort_after or {}).items() if when == number]
        made.finish_requests(leaving, RequestStatus.FINISHED_ABORTED)
    raise AssertionError("the answers do not end")


def _outputs(by_client: Any) -> list[Any]:
    return [output for outputs in by_client.values() for output in outputs.outputs]


def _take(one: Answer, output: Any) -> None:
    assert one.finish_reason is None, "an answer goes on after its end"
    one.ids += output.new_token_ids
    if output.new_logprobs is not None:
        one.rows += output.new_logprobs.logprobs[:, 1 + TokenStatistic.CONFIDENCE].tolist()
    one.finish_reason, one.stop_reason = output.finish_reason, output.stop_reason


def assert_right(one: Answer, rule: EarlyStop, min_tokens: int) -> bool:
    """Whether the answer, which is right, was ended early."""
    confidences = one.confidences
    if rule.thinking is not None and END in one.tokens:
        confidences = confidences[: one.tokens.index(END)]
    least = max(rule.min_tokens, min_tokens)
    at = looked_up(EarlyStop(rule.below, rule.window, least), confidences)
    if at is None or at == len(one.tokens):  # vLLM's own reason comes first
        assert (one.finish_reason, one.stop_reason) == (FinishReason.LENGTH, None)
        at = len(one.tokens)
        is_early = False
    else:
        assert (one.finish_reason, one.stop_reason) == (FinishReason.STOP, STOP_REASON)
        is_early = True
    assert one.ids == one.tokens[:at]
    np.testing.assert_array_equal(one.rows, one.confidences[:at])
    return is_early


def assert_nothing_left(made: Any) -> None:
    assert not made.requests
    assert not made._early_stops
    assert not made._deferred_rows
    assert made.kv_cache_manager.usage == 0.0


@pytest.mark.parametrize("kind", AHEAD)
def test_every_answer_ends_where_the_whole_says(
    kind: type[ConfidenceScheduler], config: VllmConfig
) -> None:
    """Windows, thresholds, company and order are drawn; the cache is too small for all at once."""
    preemptions = 0
    ends = {False: 0, True: 0}
    for seed in range(40):
        draw = np.random.default_rng(seed)
        made = scheduler(kind, config, blocks=int(draw.integers(26, 60)))
        asked = []
        for number in range(12):
            confidences = np.float32(draw.gamma(20, 0.5, draw.integers(1, 70))).tolist()
            window = int(draw.integers(1, 12))
            thinking = THINKING if draw.random() < 0.3 else None
            below = float(draw.normal(10 - 4 / window, 0.8))
            rule = EarlyStop(below, window, window + int(draw.integers(0, 9)), thinking)
            given: dict[str, Any] = {
                "prompt": int(draw.integers(1, 40)),
                "deferred": bool(draw.random() < 0.5),
                "end_at": int(draw.integers(len(confidences))) if draw.random() < 0.5 else None,
                "min_tokens": min(int(draw.integers(0, 20)), len(confidences)),
            }
            one = answer(f"{seed}-{number}", rule, confidences, **given)
            asked.append((one, rule, given["min_tokens"]))
        run(made, [one for one, *_ in asked])
        assert_nothing_left(made)
        for one, rule, min_tokens in asked:
            ends[assert_right(one, rule, min_tokens)] += 1
            preemptions += one.request.num_preemptions
    assert min(ends.values()) > 50, ends
    assert preemptions > 20


@pytest.mark.parametrize("kind", AHEAD)
def test_nothing_is_left_of_a_thousand_answers(
    kind: type[ConfidenceScheduler], config: VllmConfig
) -> None:
    """Most are ended early, the others by their client, some of them while they wait."""
    made = scheduler(kind, config, blocks=50)
    rule = EarlyStop(10.0, 3, 3)
    for part in range(4):
        names = [f"{part}-{number}" for number in range(250)]
        asked = [answer(name, rule, [9.0] * 8) for name in names]
        leaving = {name: int(name[-1]) + 3 for name in names[::10]}
        run(made, asked, leaving)
        assert_nothing_left(made)
        stopped = [one for one in asked if one.stop_reason == STOP_REASON]
        assert len(stopped) >= 225
        assert all(one.ids == [TOKEN] * 3 for one in stopped)
    del asked, stopped
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Request]
