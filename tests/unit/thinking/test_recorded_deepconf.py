"""Scores, threshold, survivors and votes against DeepConf's own code (recorded/deepconf.json)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.thinking.survivors import survivors
from conf_server.thinking.threshold import threshold
from conf_server.thinking.trace_scores import TraceScores, trace_scores
from conf_server.thinking.votes import VOTES, Ballot, VoteResult, hold_vote

RECORDED = json.loads((Path(__file__).parent / "recorded" / "deepconf.json").read_text())
CASES = RECORDED["cases"]
NAMES = dict(
    zip(RECORDED["votes"], [name for name in VOTES if name != "self_certainty_borda"], strict=True)
)
"""Our name for each vote of its code; both are in the order of its code."""
ROUNDED = 5e-4
"""Nats that its code may round a window's mean by in `min_conf`."""


@cache
def scores(number: int) -> list[TraceScores]:
    """Of the traces of a set, with the windows of the votes: 2048 tokens, as its code has."""
    return [trace_scores(confidences(trace)) for trace in CASES[number]["traces"]]


@cache
def online_scores(number: int) -> list[TraceScores]:
    """The same with the set's window, which decides who votes."""
    window = CASES[number]["window"]
    return [trace_scores(confidences(trace), window=window) for trace in CASES[number]["traces"]]


def confidences(trace: dict[str, Any]) -> np.ndarray:
    values = [float(value) for value, _ in trace["runs"]]
    return np.repeat(values, [count for _, count in trace["runs"]])


def ballots(number: int, of_traces: list[TraceScores]) -> list[Ballot]:
    traces = CASES[number]["traces"]
    return [
        Ballot(index, trace["answer"], of_trace)
        for index, (trace, of_trace) in enumerate(zip(traces, of_traces, strict=True))
        if trace["answer"]
    ]


def bar(number: int) -> float:
    """Our threshold. Its code has 0 for a trace without a confidence."""
    case = CASES[number]
    min_confs = [one.min_conf or 0.0 for one in online_scores(number)[: case["warmup"]]]
    return threshold(min_confs, case["percent"] / 100)


def as_recorded(result: VoteResult | None) -> list[Any] | None:
    if result is None:
        return None
    confidence = result.confidence
    number = None if confidence is None else pytest.approx(confidence, rel=0, abs=1e-9)
    return [result.winner, result.num_votes, number]


def test_what_is_recorded() -> None:
    """200 sets, and those that are hard are among them."""
    traces = [trace for case in CASES for trace in case["traces"]]
    lengths = [sum(count for _, count in trace["runs"]) for trace in traces]
    assert len(CASES) == 200
    assert {None, ""} < {trace["answer"] for trace in traces}
    assert sum(length == 0 for length in lengths) > 10
    assert sum(0 < length < 2048 for length in lengths) > 500
    assert sum(length > 2048 for length in lengths) > 300
    assert sum("raw" in case for case in CASES) == 100
    assert sum(is_tied(number, "majority") for number in range(len(CASES))) > 30
    assert sum(is_tied(number, "bottom_window_weighted") for number in range(len(CASES))) > 10


def is_tied(number: int, vote: str) -> bool:
    """Whether two answers have the same largest weight, so that the order decides."""
    result = hold_vote(vote, ballots(number, scores(number)))
    return result is not None and list(result.weights.values()).count(result.weight) > 1


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_scores_are_deepconf_s(number: int) -> None:
    case = CASES[number]
    ours = [
        [one.mean_conf, one.tail_conf, one.bottom_window_conf, one.min_conf]
        for one in scores(number)
    ]
    for mine, recorded in zip(ours, case["deepconf"]["scores"], strict=True):
        assert [value or 0.0 for value in mine] == pytest.approx(recorded, rel=0, abs=1e-9)
    lowest = [one.min_conf or 0.0 for one in online_scores(number)]
    is_whole = case["window"] == 8
    rounding = 0.0 if is_whole else ROUNDED
    assert lowest == pytest.approx(case["deepconf"]["min_confs"], rel=0, abs=rounding + 1e-9)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_same_traces_vote_on_the_same_answer_online(number: int) -> None:
    recorded = CASES[number]["deepconf"]
    below = bar(number)
    assert below == pytest.approx(recorded["conf_bar"], rel=0, abs=ROUNDED + 1e-9)
    kept = survivors(ballots(number, online_scores(number)), below, min_voters=0)
    assert [ballot.trace for ballot in kept.ballots] == recorded["voters"]
    result = hold_vote("min_window_weighted", kept.ballots)
    assert (result and result.winner) == recorded["online_answer"]
    voters = [one for one in ballots(number, scores(number)) if one.trace in recorded["voters"]]
    for name, expected in zip(NAMES.values(), recorded["online"], strict=True):
        assert as_recorded(hold_vote(name, voters)) == expected, name


@pytest.mark.parametrize("number", range(len(CASES)))
def test_all_traces_vote_for_the_same_answer_offline(number: int) -> None:
    everybody = ballots(number, scores(number))
    for name, expected in zip(NAMES.values(), CASES[number]["deepconf"]["offline"], strict=True):
        assert as_recorded(hold_vote(name, everybody)) == expected, name


def has_nan_in_tail(trace: dict[str, Any]) -> bool:
    return bool(trace["answer"]) and bool(np.isnan(confidences(trace)[-2048:]).any())


def test_in_its_code_one_token_without_confidence_spoils_a_vote() -> None:
    """Why these tokens are left out here: its filters then let nobody vote."""
    filtered = list(NAMES).index("top10_tail_filtered")
    spoiled = [case for case in CASES if any(map(has_nan_in_tail, case["traces"]))]
    assert len(spoiled) > 50
    for case in spoiled:
        assert case["raw"][filtered] is None
        assert case["deepconf"]["offline"][filtered] is not None
