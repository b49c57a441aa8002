"""The verdict, the table and the JSON of a check."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf_server.check.compare import compare
from conf_server.check.reference_rows import reference_rows
from conf_server.check.reference_statistics import (
    StatisticDifference,
)
from conf_server.check.result import Line
from tests.unit.check.rows import (
    STATISTICS,
    WORST,
    difference,
    result_of,
    rows_with_statistics,
)

SAME = Line("long", "prompt", difference(num_tokens=990))
"""A text without any difference, 99 times as long as `difference`'s own."""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, None),
        ({"mean": 0.2, "max": 1.0, "agreement": 0.5, "regret": 1.0}, None),
        ({"mean": 0.21}, "mean 0.21 > 0.2"),
        ({"max": 1.5}, "max 1.5 > 1"),
        ({"mean": 0.3, "max": 2.0}, "mean 0.3 > 0.2, max 2 > 1"),
        ({"regret": 3.0}, "regret 3 > 1"),
        ({"statistics": (StatisticDifference("entropy", 0.4, 1.0),)}, None),
        (
            {"statistics": (StatisticDifference("entropy", 0.5, 2.0),)},
            "entropy mean 0.5 > 0.4, entropy max 2 > 1",
        ),
    ],
)
def test_the_verdict_names_what_is_past_the_limits_of_one_text(
    fields: dict[str, Any], message: str | None
) -> None:
    found = result_of(Line("chat", "prompt", difference(**fields)), SAME)
    assert found.failures() == ([f"chat/prompt: {message}"] if message else [])
    assert found.ok is (message is None)
    assert found.verdict().startswith("FAIL" if message else "PASS")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": 0.1}, None),
        ({"mean": 0.11}, "mean 0.11 > 0.1"),
        ({"statistics": (StatisticDifference("entropy", 0.2, 0.5),)}, None),
        ({"statistics": (StatisticDifference("entropy", 0.3, 0.5),)}, "entropy mean 0.3 > 0.2"),
        ({"agreement": 0.9}, None),
        ({"agreement": 0.8}, "argmax 80.0% < 90%"),
        ({"mean": 0.15, "agreement": 0.8}, "mean 0.15 > 0.1, argmax 80.0% < 90%"),
    ],
)
def test_all_texts_of_a_kind_have_narrower_limits(
    fields: dict[str, Any], message: str | None
) -> None:
    lines = [Line(name, "prompt", difference(**fields)) for name in ("chat", "prose")]
    assert result_of(*lines).failures() == ([f"all/prompt: {message}"] if message else [])


def test_what_is_not_a_number_is_past_every_limit() -> None:
    found = result_of(Line("chat", "prompt", difference(mean=np.nan)), SAME)
    assert found.failures() == ["chat/prompt: mean nan > 0.2", "all/prompt: mean nan > 0.1"]


def test_one_near_tie_in_a_short_text_does_not_fail() -> None:
    short = Line("short", "prompt", difference(num_tokens=4, agreement=0.75))
    long = Line("long", "prompt", difference(num_tokens=96, agreement=1.0))
    assert result_of(short, long).ok
    assert not result_of(short).ok
    other_kind = replace(long, kind="generated")
    assert result_of(short, other_kind).failures() == ["all/prompt: argmax 75.0% < 90%"]


def test_nothing_compared_proves_nothing() -> None:
    assert not result_of().ok
    assert "nothing was compared" in result_of().verdict()


def test_without_the_engines_statistics_none_are_compared() -> None:
    logits = np.zeros((2, 9), np.float32)
    rows = rows_with_statistics(logits, None)
    bare = reference_rows(logits, rows.token_ids, rows.candidate_ids, statistics=False)
    found = compare(rows, bare, sampled=False)
    assert found is not None
    assert (found.statistics, found.worst_statistic) == ((), None)
    passed = result_of(Line("chat", "prompt", found), statistics=False)
    assert passed.ok
    assert "Not compared: token statistics: this engine computes none" in passed.table()
    answer = passed.as_json()
    assert answer["token_statistics"] == "topk"
    assert (answer["lines"][0]["statistics"], answer["lines"][0]["worst_statistic"]) == (None, None)


def test_the_table_has_a_line_for_each_text_and_kind_and_one_for_each_kind() -> None:
    found = result_of(
        Line("chat", "prompt", difference(mean=0.01, statistics=STATISTICS), WORST),
        Line("chat", "generated", difference(max=12.5, agreement=0.5), WORST),
    )
    head, _, names, *lines = found.table().splitlines()
    assert head == "engine served against transformers float32 original"
    assert names.split()[:5] == ["text", "rows", "tokens", "mean", "max"]
    assert [line.split()[:2] for line in lines[:4]] == [
        ["chat", "prompt"],
        ["chat", "generated"],
        ["all", "prompt"],
        ["all", "generated"],
    ]
    assert r"'The capital\nof[ Paris]' -0.250 for -9.500" in lines[0]
    assert "entropy 0.500" in lines[0]
    assert "12.500" in lines[1]
    assert "50.0%" in lines[1]
    assert "FAIL: 2 comparisons, bfloat16; tolerance: mean 0.1, max 1, argmax 90%" in lines[5]
    assert "chat/generated: max 12.5 > 1" in lines[6]


def test_json_is_json_whatever_was_found() -> None:
    bad = difference(mean=np.inf, max=np.inf, kl=np.nan, regret=np.inf)
    bad = replace(bad, statistics=(StatisticDifference("entropy", np.inf, np.inf),))
    found = result_of(
        Line("chat", "prompt", difference(statistics=STATISTICS), WORST),
        Line("chat", "generated", bad, replace(WORST, logprob=np.nan)),
    )
    answer = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert (answer["object"], answer["ok"], answer["top_k"]) == ("check", False, 20)
    assert answer["tolerance"] == {"mean": 0.1, "max": 1.0, "agreement": 0.9}
    assert [(line["text"], line["rows"]) for line in answer["lines"]] == [
        ("chat", "prompt"),
        ("chat", "generated"),
    ]
    good, wrong = answer["lines"]
    assert good["worst"]["token"] == " Paris"
    assert (good["worst_statistic"], answer["token_statistics"]) == ("entropy", "engine")
    assert good["statistics"]["confidence"] == {"mean": 0.01, "max": 0.02}
    assert wrong["statistics"]["entropy"] == {"mean": None, "max": None}
    assert (wrong["mean"], wrong["kl"], wrong["worst"]["logprob"]) == (None, None, None)
    assert [line["text"] for line in answer["totals"]] == ["all", "all"]
