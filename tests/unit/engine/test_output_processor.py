"""Traced requests receive arrays, every other request what vLLM gives it. No model."""

import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
from vllm.logprobs import (
    FlatLogprobs,
    Logprob,
    append_logprobs_for_next_position,
    create_sample_logprobs,
)
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from conf_server.engine.adoption import adopt
from conf_server.engine.client.output_processor import ConfidenceOutputProcessor, SampleTrace
from conf_server.engine.client.stock_logprobs import append_stock_rows
from conf_server.engine.marks import Mark, PromptMark, SamplesMark, mark_of, set_mark
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.confidence import token_confidence, with_sampled_token
from conf_server.stats.row_layout import RowLayout
from conf_server.stats.trace import TokenTrace

DELTA, FINAL_ONLY, CUMULATIVE = (
    RequestOutputKind.DELTA,
    RequestOutputKind.FINAL_ONLY,
    RequestOutputKind.CUMULATIVE,
)
WIDTH = 3
TOKENS = [40, 41, 42, 43, 44, 45]


def sampling(kind: RequestOutputKind = FINAL_ONLY, **given: Any) -> SamplingParams:
    fields: dict[str, Any] = {"logprobs": WIDTH, "detokenize": False, "output_kind": kind}
    return SamplingParams(**fields | given)


def traced_sampling(kind: RequestOutputKind = FINAL_ONLY, **given: Any) -> SamplingParams:
    params = sampling(kind, **given)
    set_mark(params, SamplesMark())
    return params


def request(params: SamplingParams, name: str = "r", **given: Any) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=name,
        external_req_id=f"external-{name}",
        prompt_token_ids=[1, 2, 3, 4],
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        **given,
    )


def rows(tokens: list[int], columns: int = WIDTH + 1) -> LogprobsLists:
    """A token's row: itself, then candidates 10 t, 10 t + 1, ..."""
    ids = [[t, *range(10 * t, 10 * t + columns - 1)] for t in tokens]
    logprobs = [[-t / 8 - j for j in range(columns)] for t in tokens]
    return LogprobsLists(
        np.array(ids, np.int32), np.array(logprobs, np.float32), np.array(tokens, np.int32) + 1
    )


def step(tokens: list[int], name: str = "r", last: bool = False, **given: Any) -> EngineCoreOutput:
    """What the engine sends for one request in one step."""
    return EngineCoreOutput(
        request_id=name,
        new_token_ids=tokens,
        finish_reason=FinishReason.LENGTH if last else None,
        **{"new_logprobs": rows(tokens), **given},
    )


def steps(cuts: list[int], columns: int = WIDTH + 1, name: str = "r") -> list[EngineCoreOutput]:
    """TOKENS in steps that end at `cuts`."""
    return [
        step(
            TOKENS[start:stop],
            name,
            last=stop == len(TOKENS),
            new_logprobs=rows(TOKENS[start:stop], columns),
        )
        for start, stop in pairwise([0, *cuts])
    ]


@pytest.fixture
def processor() -> ConfidenceOutputProcessor:
    return adopt(ConfidenceOutputProcessor, OutputProcessor(tokenizer=None, log_stats=False))


def feed(processor: OutputProcessor, *outputs: EngineCoreOutput) -> list[RequestOutput]:
    """All that comes out when the engine takes one step an output."""
    return [
        made for output in outputs for made in processor.process_outputs([output]).request_outputs
    ]


def sample_trace(output: CompletionOutput) -> TokenTrace:
    assert isinstance(output.logprobs, SampleTrace)
    return output.logprobs.trace


def assert_holds(trace: TokenTrace, tokens: list[int]) -> None:
    expected, got = rows(tokens), trace.all()
    ids: NDArray = np.column_stack([got.token_ids, got.candidate_ids])
    logprobs: NDArray = np.column_stack([got.logprobs, got.candidate_logprobs])
    assert ids.tolist() == expected.logprob_token_ids.tolist()
    assert logprobs.tolist() == expected.logprobs.tolist()
    assert got.ranks.tolist() == expected.sampled_token_ranks.tolist()


ONE_AT_A_TIME = [1, 2, 3, 4, 5, 6]
SPECULATIVE = [1, 4, 6]


@pytest.mark.parametrize("cuts", [ONE_AT_A_TIME, SPECULATIVE, [6]], ids=str)
@pytest.mark.parametrize("kind", [FINAL_ONLY, CUMULATIVE, DELTA])
def test_an_answer_carries_its_whole_trace(
    kind: RequestOutputKind, cuts: list[int], processor: ConfidenceOutputProcessor
) -> None:
    processor.add_request(request(traced_sampling(kind)), None)
    outputs = feed(processor, *steps(cuts))
    assert len(outputs) == (1 if kind == FINAL_ONLY else len(cuts))
    assert outputs[-1].finished
    assert_holds(sample_trace(outputs[-1].outputs[0]), TOKENS)


def test_a_delta_finds_the_trace_up_to_its_last_token(processor: ConfidenceOutputProcessor) -> None:
    processor.add_request(request(traced_sampling(DELTA)), None)
    seen: list[int] = []
    for output in steps(SPECULATIVE):
        (made,) = feed(processor, output)
        seen += made.outputs[0].token_ids
        assert_holds(sample_trace(made.outputs[0]), seen)
    assert seen == TOKENS


def test_merged_deltas_share_one_trace(processor: ConfidenceOutputProcessor) -> None:
    """A slow reader gets several deltas at once."""
    queue = RequestOutputCollector(DELTA, "r")
    processor.add_request(request(traced_sampling(DELTA)), None, queue=queue)
    first, *rest = steps(ONE_AT_A_TIME)
    feed(processor, first)
    early = queue.get_nowait()
    feed(processor, *rest)
    merged = queue.get_nowait()
    assert isinstance(early, RequestOutput)
    assert isinstance(merged, RequestOutput)
    assert (early.outputs[0].token_ids, merged.outputs[0].token_ids) == (TOKENS[:1], TOKENS[1:])
    assert_holds(sample_trace(merged.outputs[0]), TOKENS)


def test_deltas_of_two_traces_do_not_merge() -> None:
    with pytest.raises(ValueError, match="two different traces"):
        SampleTrace(RowLayout(WIDTH)).extend(SampleTrace(RowLayout(WIDTH)))


def test_columns_past_the_width_are_ignored(processor: ConfidenceOutputProcessor) -> None:
    """A batch is as wide as its widest request, and the worker may append statistics."""
    processor.add_request(request(traced_sampling()), None)
    (answer,) = feed(processor, *steps(SPECULATIVE, columns=WIDTH + 3))
    assert_holds(sample_trace(answer.outputs[0]), TOKENS)


@pytest.mark.parametrize("kind", [FINAL_ONLY, DELTA])
def test_each_choice_has_its_own_trace(
    kind: RequestOutputKind, processor: ConfidenceOutputProcessor
) -> None:
    whole = request(traced_sampling(kind, n=2), "r")
    parent = ParentRequest(whole)
    for index in range(2):
        name, params = parent.get_child_info(index)
        processor.add_request(request(params, name), None, parent, index)
    outputs = feed(processor, step([40, 41], "0_r", last=True), step([50], "1_r", last=True))
    zero, one = (output for made in outputs for output in made.outputs)
    assert_holds(sample_trace(zero), [40, 41])
    assert_holds(sample_trace(one), [50])


def test_a_request_fed_in_pieces_keeps_its_trace(processor: ConfidenceOutputProcessor) -> None:
    """vLLM adds a streamed input's last piece under the same id."""
    processor.add_request(request(traced_sampling(), resumable=True), None)
    first, *rest = steps(SPECULATIVE)
    feed(processor, first)
    processor.add_request(request(traced_sampling()), None)
    (answer,) = feed(processor, *rest)
    assert_holds(sample_trace(answer.outputs[0]), TOKENS)


@pytest.mark.parametrize("kind", [FINAL_ONLY, DELTA])
def test_beside_a_traced_request_others_get_what_vllm_gives(
    kind: RequestOutputKind, processor: ConfidenceOutputProcessor
) -> None:
    def others(processor: OutputProcessor) -> list[dict[str, Any]]:
        processor.add_request(request(sampling(kind), "other"), None)
        made = feed(
            processor,
            *(output for name in ("r", "other") for output in steps(SPECULATIVE, name=name)),
        )
        return [asdict(m.outputs[0]) for m in made if m.request_id == "external-other"]

    processor.add_request(request(traced_sampling(kind)), None)
    got = others(processor)
    assert got == others(OutputProcessor(tokenizer=None, log_stats=False))
    assert all(type(row) is dict for output in got for row in output["logprobs"])


def test_adopt_takes_over_the_stock_processors_state() -> None:
    stock = OutputProcessor(tokenizer=None, log_stats=True, stream_interval=7)
    assert vars(adopt(ConfidenceOutputProcessor, stock)) == vars(stock)


def prompt_step(**given: Any) -> EngineCoreOutput:
    scored = rows([2, 3, 4])
    return step(
        [40],
        new_prompt_logprobs_tensors=LogprobsTensors(*map(torch.from_numpy, scored[:3])),
        **given,
    )


@pytest.mark.parametrize("kind", [FINAL_ONLY, DELTA])
def test_prompt_log_probabilities_arrive_as_a_trace(
    kind: RequestOutputKind, processor: ConfidenceOutputProcessor
) -> None:
    params = sampling(kind, logprobs=None, prompt_logprobs=WIDTH)
    set_mark(params, PromptMark())
    processor.add_request(request(params), None)
    (answer,) = feed(processor, prompt_step(last=True, new_logprobs=None))
    trace: Any = answer.prompt_logprobs
    assert isinstance(trace, TokenTrace)
    assert_holds(trace, [2, 3, 4])
    assert answer.outputs[0].logprobs is None


def test_untraced_prompt_log_probabilities_stay_vllms(processor: ConfidenceOutputProcessor) -> None:
    processor.add_request(request(sampling(prompt_logprobs=WIDTH)), None)
    (answer,) = feed(processor, prompt_step(last=True))
    assert answer.prompt_logprobs is not None
    assert [row and next(iter(row)) for row in answer.prompt_logprobs] == [None, 2, 3, 4]


def test_a_mark_keeps_the_clients_other_arguments() -> None:
    params = sampling(extra_args={"theirs": 1, "conf_server": "x"})
    set_mark(params, PromptMark())
    assert params.extra_args is not None
    assert params.extra_args["theirs"] == 1
    assert mark_of(params) == PromptMark()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
MARKS = st.sampled_from(
    [
        {"type": "prompt", "statistics_top_k": 5, "token_ids": [10**9]},
        {"trace": "prompt", "statistics_top_k": 5, "token_ids": [10**9]},
        {"trace": "nope"},
        '{"type":"samples","statistics_top_k":20}',
    ]
)


@given(value=JSON | MARKS)
def test_json_cannot_mark_a_request(value: object) -> None:
    """/inference/v1/generate takes all of a client's SamplingParams."""
    body = {"token_ids": [1], "sampling_params": {"extra_args": {"conf_server": value}}}
    generate = GenerateRequest.model_validate_json(json.dumps(body))
    assert generate.sampling_params.extra_args is not None
    assert "conf_server" in generate.sampling_params.extra_args
    assert mark_of(generate.sampling_params) is None


@pytest.mark.parametrize(
    "mark", [SamplesMark(), SamplesMark(20, True), PromptMark(5, 3, token_ids=(1, 2), ranks=True)]
)
def test_a_mark_reaches_the_engine(mark: Mark) -> None:
    params = sampling()
    set_mark(params, mark)
    sent = MsgpackEncoder().encode(request(params))
    received = MsgpackDecoder(EngineCoreRequest).decode(sent)
    assert mark_of(received.sampling_params) == mark


def test_what_fails_to_be_added_leaves_nothing_behind(
    processor: ConfidenceOutputProcessor,
) -> None:
    params = traced_sampling(logprobs=-1)
    with pytest.raises(ValueError, match="width"):
        processor.add_request(request(params), None)
    assert not processor.has_unfinished_requests()


def wrong_rows(width: int, statistics: int, columns: int = WIDTH + 1) -> LogprobsLists:
    """A row with `width` candidates and `statistics` further numbers; p = 0 past `columns`."""
    made = rows([40], 1 + width + statistics)
    made.logprobs[:, columns : 1 + width] = -np.inf
    return made._replace(logprob_token_ids=made.logprob_token_ids[:, : 1 + width])


@pytest.mark.parametrize(
    ("top_k", "wrong"),
    [
        (0, wrong_rows(2, 0)),  # beside a request that has named two tokens
        (0, wrong_rows(5, 0, columns=1)),  # five tokens, and this row is filled up
        (20, wrong_rows(WIDTH, 0)),  # of a sampler that makes no statistics
        (20, wrong_rows(WIDTH + NUM_TOKEN_STATISTICS, 0)),  # the same, in company that wants more
        (20, wrong_rows(2, NUM_TOKEN_STATISTICS)),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_rows_that_are_not_the_requests_fail_it_alone(
    last: bool, top_k: int, wrong: LogprobsLists, processor: ConfidenceOutputProcessor
) -> None:
    params = sampling()
    set_mark(params, SamplesMark(top_k))
    processor.add_request(request(params), None)
    processor.add_request(request(traced_sampling(), "other"), None)
    done = processor.process_outputs(
        [step([40], last=last, new_logprobs=wrong), step([41], "other", last=True)]
    )
    failed, other = done.request_outputs
    assert isinstance(failed, RequestOutput)
    assert isinstance(other, RequestOutput)
    assert (failed.finished, failed.outputs[0].finish_reason) == (True, "error")
    assert_holds(sample_trace(other.outputs[0]), [41])
    # The engine still works on what it has not finished itself.
    assert done.reqs_to_abort == ([] if last else ["r"])


def test_prompt_rows_that_are_not_the_requests_fail_it(
    processor: ConfidenceOutputProcessor,
) -> None:
    params = sampling(logprobs=None)
    set_mark(params, PromptMark(3, 1, candidates=WIDTH))
    processor.add_request(request(params), None)
    (answer,) = feed(processor, prompt_step(last=True, new_logprobs=None))
    assert answer.outputs[0].finish_reason == "error"


@pytest.mark.parametrize("params", [None, SamplingParams(), SamplingParams(extra_args={"a": 1})])
def test_other_requests_are_not_traced(params: SamplingParams | None) -> None:
    assert mark_of(params) is None


# vLLM's own dicts as a trace.


def stock_row(token: int, others: dict[int, float], rank: int, own: float) -> dict[int, Logprob]:
    """The token first and once, then the candidates, as vLLM orders them."""
    candidates = {i: Logprob(p, r) for r, (i, p) in enumerate(others.items(), 1)}
    return {token: Logprob(own, rank)} | candidates


TOP = {7: -0.5, 8: -1.0, 9: -2.0}


@pytest.mark.parametrize(
    ("token", "own", "rank"), [(7, -0.5, 1), (8, -1.0, 2), (9, -2.0, 3), (99, -6.0, 50)]
)
def test_a_stock_row_gives_the_token_then_the_likeliest(token: int, own: float, rank: int) -> None:
    trace = TokenTrace(WIDTH)
    append_stock_rows(trace, [token], [stock_row(token, TOP, rank, own)])
    row = trace.all()
    assert (row.token_ids.tolist(), row.logprobs.tolist()) == ([token], [own])
    assert row.ranks.tolist() == [rank]
    assert row.candidate_ids.tolist() == [list(TOP)]
    assert row.candidate_logprobs.tolist() == [list(TOP.values())]


@pytest.mark.parametrize(
    ("token", "candidates"), [(7, [7, 8, 9]), (8, [8, 7, 9]), (9, [9, 7, 8]), (99, [99, 7, 8])]
)
def test_ties_keep_vllms_order(token: int, candidates: list[int]) -> None:
    trace = TokenTrace(WIDTH)
    level = dict.fromkeys(TOP, -1.0)
    append_stock_rows(trace, [token], [stock_row(token, level, 1, -1.0)])
    assert trace.all().candidate_ids.tolist() == [candidates]
    assert trace.all().candidate_logprobs.tolist() == [[-1.0] * 3]


def test_a_narrower_trace_takes_the_first_candidates() -> None:
    trace = TokenTrace(1)
    append_stock_rows(trace, [9, 7], [stock_row(9, TOP, 3, -2.0), stock_row(7, TOP, 1, -0.5)])
    assert trace.all().candidate_ids.tolist() == [[7], [7]]


@pytest.mark.parametrize(
    ("tokens", "table"),
    [
        ([7], [None]),
        ([7], [{}]),
        ([99], [{i: Logprob(p) for i, p in TOP.items()}]),
        ([7], []),
        ([], [stock_row(7, TOP, 1, -0.5)]),
        ([7], [{7: Logprob(-0.5, 1)}]),
    ],
    ids=["None", "empty", "another token's", "no row", "a row too many", "too few candidates"],
)
def test_a_missing_row_is_refused(
    tokens: list[int], table: list[dict[int, Logprob] | None]
) -> None:
    with pytest.raises(ValueError, match=r"token|zip|rows"):
        append_stock_rows(TokenTrace(WIDTH), tokens, table)


def test_a_token_without_a_rank_has_rank_0() -> None:
    trace = TokenTrace(0)
    append_stock_rows(trace, [7], [{7: Logprob(-0.5)}])
    assert trace.all().ranks.tolist() == [0]


def stock_rows(flat: bool) -> Any:
    """Three tokens as vLLM's output processor keeps them: two among the likeliest, one not."""
    kept = create_sample_logprobs(flat)
    for token, own, rank in ((7, -0.5, 1), (9, -2.0, 3), (99, -6.0, 50)):
        ids, logprobs = [token, *TOP], [own, *TOP.values()]
        append_logprobs_for_next_position(kept, ids, logprobs, [None] * 4, rank, WIDTH)
    return kept


@pytest.mark.parametrize("part", [slice(None), slice(-2, None)], ids=["whole", "a delta"])
def test_flat_rows_are_read_as_the_others(part: slice) -> None:
    tokens = [7, 9, 99]
    found = []
    for flat in (True, False):
        trace = TokenTrace(WIDTH)
        append_stock_rows(trace, tokens[part], stock_rows(flat)[part])
        rows = trace.all()
        found.append([rows.named_ids.tolist(), rows.named_logprobs.tolist(), rows.ranks.tolist()])
    assert found[0] == found[1]


def test_the_mean_of_a_flat_row_is_the_confidence_with_the_sampled_token() -> None:
    """That is what the plugin of PETS computes of them."""
    flat = stock_rows(True)
    assert isinstance(flat, FlatLogprobs)
    places = zip(flat.start_indices, flat.end_indices, strict=True)
    segments = [flat.logprobs[start:end] for start, end in places]
    trace = TokenTrace(WIDTH)
    append_stock_rows(trace, [7, 9, 99], flat)
    rows = trace.all()
    found = with_sampled_token(
        token_confidence(rows.candidate_logprobs, WIDTH), rows.logprobs, WIDTH
    )
    assert found.tolist() == pytest.approx([-np.mean(segment) for segment in segments])
    assert {len(segment) for segment in segments} == {WIDTH + 1}
