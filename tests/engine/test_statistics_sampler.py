"""What the samplers give each row of a step, in whatever company. Samplers alone, no engine."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.sample.logits_processor import (
    AdapterLogitsProcessor,
    BatchUpdate,
    LogitBiasLogitsProcessor,
    LogitsProcessor,
    LogitsProcessors,
    MinTokensLogitsProcessor,
)
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler as V1Sampler
from vllm.v1.worker.gpu.sample.sampler import Sampler as V2Sampler
from vllm.v1.worker.gpu.structured_outputs import StructuredOutputsWorker

from conf_server.engine.marks import SamplesMark, set_mark
from conf_server.engine.worker.extension import StatisticsExtension
from conf_server.engine.worker.sampler import V1StatisticsSampler, V2StatisticsSampler
from conf_server.engine.worker.v2_runner import V2StructuredOutputs
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from tests.reference import token_statistics

VOCABULARY = 1000
TOP_K = 20


def wants(top_k: int = 0, **fields: Any) -> SamplingParams:
    params = SamplingParams(**fields)
    if top_k:
        set_mark(params, SamplesMark(top_k))
    return params


CONFIDENCE = {
    "statistics alone": wants(TOP_K, logprobs=0),
    "statistics and candidates": wants(TOP_K, logprobs=5),
}
STOCK = {
    "candidates": wants(logprobs=3),
    "nothing": wants(),
    "two names": wants(logprob_token_ids=[7, 8]),
    "nine names": wants(logprob_token_ids=list(range(11, 20))),
    "names, as chat asks for them": wants(logprobs=4, logprob_token_ids=[3, 2, 1, 0]),
}


def logits_of(name: str) -> Tensor:
    draw = torch.Generator().manual_seed(len(name))
    return torch.randn(VOCABULARY, generator=draw) * 3


def sample(
    requests: dict[str, SamplingParams], masked: Tensor | None = None, **metadata_fields: Any
) -> LogprobsLists:
    """Rows of one step of V1's sampler, which is greedy and changes no logits.

    Args:
        masked: which tokens a grammar forbids to all requests.
        metadata_fields: make it another step.
    """
    names = {i: p.logprob_token_ids for i, p in enumerate(requests.values()) if p.logprob_token_ids}
    widths = {name: p.logprobs for name, p in requests.items() if p.logprobs is not None}
    batch = SimpleNamespace(
        req_ids=list(requests),
        num_logprobs=widths,
        max_num_logprobs=max(widths.values(), default=None),
        logprob_token_ids=names,
    )
    states = {name: SimpleNamespace(sampling_params=p) for name, p in requests.items()}
    runner = SimpleNamespace(input_batch=batch, requests=states)
    sampler = V1StatisticsSampler.adopt(V1Sampler(), runner)
    logits = torch.stack([logits_of(name) for name in requests])
    if masked is not None:
        sampler.take_raw(logits)
        logits[:, masked] = -torch.inf
    metadata = SamplingMetadata(
        temperature=None,
        all_greedy=True,
        all_random=False,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=batch.max_num_logprobs,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=torch.empty(0),
        presence_penalties=torch.empty(0),
        repetition_penalties=torch.empty(0),
        output_token_ids=[[] for _ in requests],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
        logprob_token_ids=names or None,
    )
    output = sampler.forward(logits, replace(metadata, **metadata_fields))
    assert output.logprobs_tensors is not None
    return output.logprobs_tensors.tolists()


def assert_same_row(
    name: str, requests: dict[str, SamplingParams], together: LogprobsLists
) -> None:
    """The request's row is what it gets in a step of its own."""
    row, width = list(requests).index(name), requests[name].num_logprobs
    assert width is not None
    alone = sample({name: requests[name]})
    ids, logprobs, ranks, *_ = together.slice_request(row, 1)
    assert ids[:, : width + 1].tolist() == alone.logprob_token_ids[:, : width + 1].tolist()
    np.testing.assert_allclose(
        logprobs[:, : width + 1], alone.logprobs[:, : width + 1], rtol=0, atol=1e-5
    )
    if name in CONFIDENCE:
        statistics = slice(-NUM_TOKEN_STATISTICS, None)
        assert logprobs[:, statistics].tolist() == alone.logprobs[:, statistics].tolist()
    if name != "statistics alone":  # which has no rank where it is alone
        assert ranks.tolist() == alone.sampled_token_ranks.tolist()


@pytest.mark.parametrize("named", ["two names", "nine names", "names, as chat asks for them"])
def test_every_row_of_a_step_gets_what_its_request_asks_for(named: str) -> None:
    """Stock V1 gives all of them the columns of those that name tokens."""
    requests = CONFIDENCE | STOCK
    for other in set(STOCK) - {named, "candidates", "nothing"}:
        del requests[other]
    together = sample(requests)
    for name in requests:
        if name != "nothing":
            assert_same_row(name, requests, together)


def test_all_kinds_of_requests_together() -> None:
    requests = CONFIDENCE | STOCK
    together = sample(requests)
    for name in set(requests) - {"nothing"}:
        assert_same_row(name, requests, together)


def test_requests_that_name_tokens_get_what_stock_gives() -> None:
    requests = {"two names": STOCK["two names"]}
    (ids,), (logprobs,), *_ = sample(requests)
    expected = logits_of("two names").double().log_softmax(0)
    assert ids.tolist() == [int(expected.argmax()), 7, 8]
    np.testing.assert_allclose(logprobs, expected[ids.tolist()], rtol=0, atol=1e-5)


def penalties(size: int) -> dict[str, Any]:
    """Whatever has been said is not said again."""
    return {
        "no_penalties": False,
        "prompt_token_ids": torch.zeros((size, 1), dtype=torch.int64),
        "frequency_penalties": torch.zeros(size),
        "presence_penalties": torch.full((size,), 100.0),
        "repetition_penalties": torch.ones(size),
        "output_token_ids": [LIKELIEST] * size,
    }


def processors(kind: type[LogitsProcessor], params: SamplingParams) -> dict[str, Any]:
    processor = kind(SimpleNamespace(scheduler_config=None), torch.device("cpu"), False)
    processor.update_state(BatchUpdate(1, removed=[], added=[(0, params, [0], [])], moved=[]))
    return {"logitsprocs": LogitsProcessors([processor])}


class ForeignProcessor(AdapterLogitsProcessor):
    """A processor of another package."""

    def __init__(self, *_: Any) -> None:
        self.update_state = lambda _: None

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> None:
        raise NotImplementedError

    def apply(self, logits: Tensor) -> Tensor:
        logits[:, LIKELIEST] = -torch.inf
        return logits


LIKELIEST = logits_of("statistics alone").topk(3).indices.tolist()
MIN_TOKENS = SamplingParams(min_tokens=5, stop_token_ids=LIKELIEST)
OTHER_STEPS: dict[str, dict[str, Any]] = {
    "penalties": penalties(1),
    "bad words": {"bad_words_token_ids": {0: [[token] for token in LIKELIEST]}},
    "allowed tokens": {"allowed_token_ids_mask": torch.arange(VOCABULARY)[None] != 5},
    "logit bias": processors(LogitBiasLogitsProcessor, SamplingParams(logit_bias={5: 100.0})),
    "min tokens": processors(MinTokensLogitsProcessor, MIN_TOKENS),
    "a foreign processor": {"logitsprocs": LogitsProcessors([ForeignProcessor()])},
    "temperature": {
        "temperature": torch.full((1,), 50.0),
        "all_greedy": False,
        "all_random": True,
        "generators": {0: torch.Generator().manual_seed(3)},
    },
}


@pytest.mark.parametrize("step", OTHER_STEPS)
def test_the_own_log_probability_is_the_raw_one_whatever_is_done_to_the_logits(step: str) -> None:
    (ids,), (logprobs,), *_ = sample(
        {"statistics alone": CONFIDENCE["statistics alone"]}, **OTHER_STEPS[step]
    )
    expected = logits_of("statistics alone").double().log_softmax(0)
    assert ids[0] not in LIKELIEST
    assert logprobs[0] == pytest.approx(float(expected[ids[0]]), abs=1e-5)


@pytest.mark.parametrize("name", CONFIDENCE)
@pytest.mark.parametrize("company", [{}, STOCK], ids=["alone", "in company"])
def test_statistics_are_those_before_a_grammars_mask(
    name: str, company: dict[str, SamplingParams]
) -> None:
    masked = torch.arange(VOCABULARY) % 50 != 0
    rows = sample({name: CONFIDENCE[name]} | company, masked)
    raw = logits_of(name).double().log_softmax(0)
    np.testing.assert_allclose(
        rows.logprobs[:1, -NUM_TOKEN_STATISTICS:],
        token_statistics(raw.numpy()[None], TOP_K),
        rtol=0,
        atol=1e-4,
    )
    # The log-probability itself is vLLM's, of what the grammar allows.
    allowed = logits_of(name).double().masked_fill(masked, -torch.inf).log_softmax(0)
    assert rows.logprobs[0, 0] == pytest.approx(float(allowed.max()), abs=1e-5)


# V2, whose kernels need a GPU: a sampler and a grammar worker that stand in for vLLM's.


class Greedy(V2Sampler):
    def __init__(self) -> None:
        self.needs_logits_processing = np.zeros(4, bool)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> None: ...

    def __call__(self, logits: Tensor, input_batch: Any) -> Any:
        best = logits.float().log_softmax(1).max(1, keepdim=True)
        ranks = torch.ones(len(logits), dtype=torch.int64)
        return SimpleNamespace(
            logprobs_tensors=LogprobsTensors(best.indices.int(), best.values, ranks)
        )


class Grammar(StructuredOutputsWorker):
    def __init__(self, masked: Tensor) -> None:
        self.masked = masked

    def apply_grammar_bitmask(self, logits: Tensor, *args: Any) -> None:
        logits[:, self.masked] = -torch.inf


def test_v2_statistics_are_those_before_a_grammars_mask() -> None:
    masked = torch.arange(VOCABULARY) % 50 != 0
    sampler = V2StatisticsSampler.adopt(Greedy())
    worker = V2StructuredOutputs.adopt(Grammar(masked), sampler)
    sampler.add_request(2, wants(TOP_K, logprobs=0))
    sampler.add_request(0, wants(logprobs=0))
    batch: Any = SimpleNamespace(idx_mapping_np=np.array([2, 0]))
    for step in ("with", "without", "with again"):
        raw = torch.stack([logits_of(step), logits_of("other")])
        logits = raw.clone()
        if step != "without":
            worker.apply_grammar_bitmask(logits, batch, ["r"], np.empty(0))
        (row, other) = sampler(logits, batch).logprobs_tensors.logprobs
        expected = token_statistics(raw[:1].double().log_softmax(1).numpy(), TOP_K)[0]
        np.testing.assert_allclose(row[1:], expected, rtol=0, atol=1e-4)
        assert other[1:].isnan().all()
        assert row[0] == logits.log_softmax(1)[0].max()


# Where nothing is installed.


@pytest.mark.parametrize(
    ("speculative", "reason"), [(object(), "speculative decoding"), (None, "OtherSampler")]
)
def test_a_worker_that_cannot_says_why_and_changes_nothing(speculative: Any, reason: str) -> None:
    """Speculative decoding can come with the checkpoint, where no flag tells."""

    class OtherSampler(V1Sampler): ...

    sampler = V1Sampler() if speculative else OtherSampler()
    runner = SimpleNamespace(
        sampler=sampler, vllm_config=SimpleNamespace(speculative_config=speculative)
    )
    worker = StatisticsExtension()
    worker.model_runner = runner
    answer = worker.install_token_statistics()
    assert answer is not None
    assert reason in answer
    assert worker.model_runner is runner
    assert runner.sampler is sampler
