"""Capped prefix-cache hits and deferred rows. vLLM's own cache manager; no model."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request, RequestStatus

from conf_server.engine.adoption import adopt
from conf_server.engine.core.cache_limit import CappedConnector, CappedKVCacheManager
from conf_server.engine.core.deferred_rows import DeferredRows
from conf_server.engine.core.scheduler import (
    ConfidenceAsyncScheduler,
    ConfidenceScheduler,
    use_our_scheduler,
)
from conf_server.engine.marks import Mark, PromptMark, SamplesMark, set_mark
from conf_server.stats.columns import NUM_TOKEN_STATISTICS

BLOCK = 4
PROMPT = list(range(100, 120))


def request(mark: Mark | None = None, name: str = "r", **params: Any) -> Request:
    sampling = SamplingParams(max_tokens=1, **params)
    if mark is not None:
        set_mark(sampling, mark)
    return Request(
        request_id=name,
        prompt_token_ids=PROMPT,
        sampling_params=sampling,
        pooling_params=None,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
    )


@pytest.fixture
def manager() -> CappedKVCacheManager:
    """All of PROMPT is in the cache."""
    init_none_hash(sha256)
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    stock = KVCacheManager(
        KVCacheConfig(10, [], [KVCacheGroupSpec(["layer"], spec)]),
        max_model_len=64,
        scheduler_block_size=BLOCK,
        hash_block_size=BLOCK,
        enable_caching=True,
    )
    first = request(name="first")
    assert stock.allocate_slots(first, len(PROMPT)) is not None
    stock.free(first)
    return adopt(CappedKVCacheManager, stock)


@pytest.mark.parametrize(
    ("first", "hit"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8), (16, 12), (19, 16)]
)
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_hit_ends_before_the_first_scored_tokens_row(
    manager: CappedKVCacheManager, top_k: int, first: int, hit: int
) -> None:
    forced = request(PromptMark(top_k, first))
    _, num_cached, *_ = manager.get_computed_blocks(forced)
    assert num_cached == hit
    _, num_cached, *_ = manager.get_computed_blocks_for_connector(forced)
    assert num_cached == hit


@pytest.mark.parametrize("mark", [None, SamplesMark(3)], ids=str)
def test_other_hits_are_vllms(manager: CappedKVCacheManager, mark: Mark | None) -> None:
    _, num_cached, *_ = manager.get_computed_blocks(request(mark))
    assert num_cached == 16


class Connector(KVConnectorBase_V1):
    """Has so many tokens of every request elsewhere."""

    def __init__(self, num_stored: int | None) -> None:
        self.num_stored = num_stored

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        if self.num_stored is None:
            return None, False
        return max(self.num_stored - num_computed_tokens, 0), True

    def _unused(self, *args: Any, **kwargs: Any) -> Any: ...

    build_connector_meta = update_state_after_alloc = start_load_kv = _unused
    wait_for_layer_load = save_kv_layer = wait_for_save = _unused


def external_hit(stored: int | None, computed: int, mark: Mark | None) -> Any:
    kind: Any = CappedConnector
    connector = adopt(kind, Connector(stored))
    assert isinstance(connector, Connector)
    return connector.get_num_new_matched_tokens(request(mark), computed)


@pytest.mark.parametrize(("stored", "loaded"), [(8, 4), (12, 8), (13, 0), (19, 0)])
def test_a_load_that_runs_into_the_scored_tokens_is_left_out(stored: int, loaded: int) -> None:
    assert external_hit(stored, 4, PromptMark(3, 13)) == (loaded, loaded > 0)


@pytest.mark.parametrize("mark", [None, SamplesMark(3)], ids=str)
def test_other_loads_are_vllms(mark: Mark | None) -> None:
    assert external_hit(19, 4, mark) == (15, True)


def test_a_connector_that_does_not_know_yet_is_asked_again() -> None:
    assert external_hit(None, 4, PromptMark(3, 13)) == (None, False)


@pytest.mark.parametrize(
    ("given", "is_async", "expected"),
    [
        (None, False, ConfidenceScheduler),
        (None, True, ConfidenceAsyncScheduler),
        ("their.Scheduler", True, "their.Scheduler"),
    ],
)
def test_our_scheduler_is_of_the_kind_that_vllm_has_chosen(
    given: Any, is_async: bool, expected: Any
) -> None:
    scheduling = SimpleNamespace(scheduler_cls=given, async_scheduling=is_async)
    config: Any = SimpleNamespace(scheduler_config=scheduling)
    use_our_scheduler(config)
    assert scheduling.scheduler_cls == expected
    assert issubclass(ConfidenceScheduler, Scheduler)
    assert issubclass(ConfidenceAsyncScheduler, AsyncScheduler)


# Deferred rows.


def row(token: int, width: int) -> LogprobsLists:
    """One token's row in a step whose widest request wants `width` candidates."""
    ids = np.array([[token, *range(width)]], np.int32)
    logprobs = np.arange(1 + width + NUM_TOKEN_STATISTICS, dtype=np.float32)[None] + token
    logprobs[:, 1 + width :] = -np.arange(NUM_TOKEN_STATISTICS) - token
    return LogprobsLists(ids, logprobs, np.array([token]))


def output(name: str, token: int, width: int = 0, last: bool = False) -> EngineCoreOutput:
    return EngineCoreOutput(
        request_id=name,
        new_token_ids=[token],
        new_logprobs=row(token, width),
        finish_reason=FinishReason.LENGTH if last else None,
    )


def test_rows_travel_with_the_last_token() -> None:
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=0)}
    # In company that wants candidates, rows are wider.
    for token, width in ((7, 0), (8, 5)):
        made = output("r", token, width)
        deferred.hold([made], requests)
        assert made.new_logprobs is None
        assert made.new_token_ids == [token]
    # vLLM has let go of the request when its last output is made.
    last = output("r", 9, last=True)
    deferred.hold([last], {})
    assert last.new_logprobs is not None
    ids, logprobs, ranks = last.new_logprobs[:3]
    assert ids.tolist() == [[7], [8], [9]]
    assert logprobs[:, 0].tolist() == [7, 8, 9]
    assert logprobs[:, 1:].tolist() == [
        [-t - i for i in range(NUM_TOKEN_STATISTICS)] for t in (7, 8, 9)
    ]
    assert ranks.tolist() == [7, 8, 9]


def test_a_long_answer_in_changing_company() -> None:
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=0)}
    tokens = list(range(1, 301))
    for token in tokens[:-1]:
        deferred.hold([output("r", token, width=5 if token % 7 == 0 else 0)], requests)
    last = output("r", tokens[-1], last=True)
    deferred.hold([last], {})
    assert last.new_logprobs is not None
    assert last.new_logprobs.logprob_token_ids[:, 0].tolist() == tokens
    assert last.new_logprobs.logprobs[:, 0].tolist() == tokens
    assert last.new_logprobs.logprobs[:, -1].tolist() == [
        1 - NUM_TOKEN_STATISTICS - token for token in tokens
    ]


def test_kept_rows_hold_on_to_nobody_elses() -> None:
    """A step's rows are one array, which can be as wide as the vocabulary."""
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=0)}
    step = row(7, width=5)
    arrays = [weakref.ref(array) for array in step[:3] if array is not None]
    made = EngineCoreOutput("r", [7], new_logprobs=step.slice_request(0, 1))
    deferred.hold([made], requests)
    del step
    assert [array() for array in arrays] == [None] * 3


@pytest.mark.parametrize("last", [False, True])
def test_rows_of_another_width_travel_on(last: bool) -> None:
    """The output processor fails their request; the engine goes on."""
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=5)}
    deferred.hold([output("r", 7, 5)], requests)
    narrow = output("r", 8, 2, last=last)
    rows = narrow.new_logprobs
    deferred.hold([narrow], requests)
    assert narrow.new_logprobs is rows


def test_rows_without_statistics_are_deferred_too() -> None:
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(deferred=True), logprobs=2)}
    deferred.hold([output("r", 7, 2)], requests)
    last = output("r", 8, 4, last=True)
    deferred.hold([last], {})
    assert last.new_logprobs is not None
    assert last.new_logprobs.logprob_token_ids.tolist() == [[7, 0, 1], [8, 0, 1]]
    assert last.new_logprobs.logprobs.tolist() == [[7, 8, 9], [8, 9, 10]]


@pytest.mark.parametrize("mark", [None, SamplesMark(3), SamplesMark()], ids=str)
def test_other_rows_travel_as_they_come(mark: Mark | None) -> None:
    deferred = DeferredRows()
    requests = {"r": request(mark, logprobs=0)}
    for last in (False, True):
        made = output("r", 7, last=last)
        before = made.new_logprobs
        deferred.hold([made], requests)
        assert made.new_logprobs is before


def test_an_answer_without_a_token_has_no_rows() -> None:
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=0)}
    for last in (False, True):
        made = output("r", 7, last=last)
        assert made.new_logprobs is not None
        made.new_logprobs = made.new_logprobs.slice_request(0, 0)
        deferred.hold([made], requests)
    assert made.new_logprobs is not None
    assert made.new_logprobs.logprobs.shape == (0, 1 + NUM_TOKEN_STATISTICS)


def test_an_answer_of_one_token_keeps_its_row() -> None:
    made = output("r", 7, last=True)
    before = made.new_logprobs
    DeferredRows().hold([made], {})
    assert made.new_logprobs is before


def test_an_answer_that_failed_brings_the_rows_of_what_was_sent() -> None:
    deferred = DeferredRows()
    deferred.hold([output("r", 7)], {"r": request(SamplesMark(3, deferred=True), logprobs=0)})
    failed = EngineCoreOutput("r", [], finish_reason=FinishReason.ERROR)
    deferred.hold([failed], {})
    assert failed.new_logprobs is not None
    assert failed.new_logprobs.logprob_token_ids.tolist() == [[7]]


def test_a_forgotten_requests_rows_are_gone() -> None:
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=0)}
    deferred.hold([output("r", 7)], requests)
    deferred.forget("r")
    deferred.hold([output("r", 8)], requests)
    last = output("r", 9, last=True)
    deferred.hold([last], {})
    assert last.new_logprobs is not None
    assert last.new_logprobs.logprob_token_ids.tolist() == [[8], [9]]


def failed(name: str) -> EngineCoreOutput:
    return EngineCoreOutput(name, [], finish_reason=FinishReason.ERROR)


@pytest.mark.parametrize(
    "last",
    [
        output("r", 8, last=True),
        failed("r"),
        output("r", 8, width=-1),
        output("r", 8, -1, last=True),
    ],
    ids=["finished", "failed", "does not fit", "does not fit at its end"],
)
def test_nothing_is_kept_of_a_request_that_has_ended(last: EngineCoreOutput) -> None:
    deferred = DeferredRows()
    requests = {"r": request(SamplesMark(3, deferred=True), logprobs=0)}
    deferred.hold([output("r", 7)], requests)
    assert len(deferred) == 1
    deferred.hold([last], requests)
    assert len(deferred) == 0


def test_nothing_is_kept_of_a_request_that_was_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = ConfidenceScheduler.__new__(ConfidenceScheduler)
    scheduler._deferred_rows = DeferredRows()
    aborted = request(SamplesMark(3, deferred=True), logprobs=0)
    scheduler._deferred_rows.hold([output("r", 7)], {"r": aborted})
    monkeypatch.setattr(Scheduler, "finish_requests", lambda self, ids, status: [aborted])
    assert scheduler.finish_requests({"r"}, RequestStatus.FINISHED_ABORTED) == [aborted]
    assert len(scheduler._deferred_rows) == 0
