"""The `think` object: its names are those of the votes and rules, and contradictions are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from conf_server.batch.request_flags import THINK_FLAGS
from conf_server.client.calls import THINK_OPTIONS
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import AnswerConfidenceOptions
from conf_server.serving.think_protocol import (
    AnswerOptions,
    ConsensusOptions,
    Equal,
    Extract,
    RuleName,
    ThinkOptions,
    VoteName,
    traced_confidence,
)
from conf_server.settings import ConfidenceSettings
from conf_server.thinking.answer_extraction import EXTRACTS
from conf_server.thinking.answer_groups import EQUALS
from conf_server.thinking.consensus import RULES
from conf_server.thinking.think_plan import ThinkPlan
from conf_server.thinking.votes import VOTES

SETTINGS = ConfidenceSettings(max_think_traces=100, max_think_tokens=1000)


def plan(obstacle: str | None = None, **fields: Any) -> ThinkPlan:
    options = ThinkOptions.model_validate(fields)
    return options.plan(SETTINGS, window=64, max_tokens=50, seed=7, no_early_stop=obstacle)


def test_names_are_those_of_what_they_name() -> None:
    assert set(get_args(VoteName)) == set(VOTES)
    assert set(get_args(RuleName)) == set(RULES)
    assert get_args(Extract) == EXTRACTS
    assert get_args(Equal) == EQUALS


def test_clients_and_the_command_know_all_fields() -> None:
    fields = set(ThinkOptions.model_fields)
    assert set(THINK_OPTIONS) == fields - {"top_k"}
    objects = {"answer": AnswerOptions, "consensus": ConsensusOptions}
    for flag in THINK_FLAGS:
        first, *below = flag.place
        assert first in fields
        assert all(name in objects[first].model_fields for name in below)


@pytest.mark.parametrize(("budget", "warmup"), [(2, 1), (8, 2), (16, 4), (64, 16), (100, 16)])
def test_a_warm_up_is_a_quarter_and_sixteen_at_most(budget: int, warmup: int) -> None:
    assert plan(budget=budget).warmup == warmup


def test_what_is_left_out() -> None:
    made = plan()
    assert (made.budget, made.window, made.seed) == (16, 64, 7)
    assert made.max_total_tokens == 1000
    assert made.votes == ("min_window_weighted", "majority")
    assert plan(window=8, max_total_tokens=9, vote=["majority", "majority"]).votes == ("majority",)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"budget": 101}, "think.budget"),
        ({"budget": 1}, "think.warmup"),
        ({"budget": 4, "warmup": 4}, "think.warmup"),
        ({"calibrate": "fixed", "below": 1.0, "warmup": 2}, "think.warmup"),
        ({"calibrate": "fixed"}, "think.below"),
        ({"calibrate": "none", "below": 1.0}, "think.below"),
        ({"max_total_tokens": 1001}, "think.max_total_tokens"),
        ({"consensus": {"rule": "certain"}}, "think.consensus.rule"),
    ],
)
def test_contradictions(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RefusalError) as caught:
        plan(**fields)
    assert caught.value.field == field


def test_no_early_stop_no_threshold() -> None:
    with pytest.raises(RefusalError, match=r"`think\.calibrate`: only `none`: as it is"):
        plan("as it is")
    assert plan("as it is", calibrate="none").warmup == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"keep_top": 0},
        {"keep_top": 1.5},
        {"below": float("nan")},
        {"vote": []},
        {"vote": ["loudest"]},
        {"consensus": {"threshold": 0.2}},
        {"tokens": 1},
        {"budget": "8"},
    ],
)
def test_what_no_field_takes(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ThinkOptions.model_validate(fields)


def traced(think: dict[str, Any], logprobs: bool = False, **fields: Any) -> AnswerConfidenceOptions:
    given = AnswerConfidenceOptions.model_validate(fields) if fields else None
    return traced_confidence(ThinkOptions.model_validate(think), given, SETTINGS, logprobs)


def test_an_answer_carries_its_summary_unless_more_is_asked_for() -> None:
    assert traced({}).mode == "stats"
    assert traced({}, logprobs=True).mode == "per_token"
    assert traced({}, top_k=3).mode == "per_token"
    assert traced({}, mode="summary").mode == "summary"
    assert traced({"top_k": 5}).top_k == 5


def test_a_server_that_tells_nothing_by_default_still_votes() -> None:
    silent = replace(SETTINGS, mode="empty")
    assert traced_confidence(ThinkOptions(), None, silent, True).mode == "stats"


@pytest.mark.parametrize(
    ("think", "fields", "field"),
    [
        ({}, {"mode": "empty"}, "confidence.mode"),
        ({}, {"early_stop": {"below": 1.0}}, "confidence.early_stop"),
        ({}, {"include_sampled": True}, "confidence.include_sampled"),
        ({"top_k": 5}, {"top_k": 6}, "think.top_k"),
    ],
)
def test_confidence_does_not_contradict_think(
    think: dict[str, Any], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(RefusalError) as caught:
        traced(think, **fields)
    assert caught.value.field == field
