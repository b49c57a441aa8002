"""conf-server check without an engine: the arithmetic, the verdict, what is printed, bad usage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conf_server import cli
from conf_server.check import command
from conf_server.check.compare import Difference, compare, pooled
from conf_server.check.expectations import Missing, cache_excuse, expected_kinds, missing_readings
from conf_server.check.options import parse_options
from conf_server.check.readings import Reading
from conf_server.check.reference_rows import ReferenceRows, log_softmax, reference_rows
from conf_server.check.reference_statistics import (
    StatisticDifference,
    distances,
    reference_statistics,
)
from conf_server.check.result import Line, Report, WorstToken
from conf_server.check.texts import TextsError, texts_of, tokenized
from conf_server.check.tolerance import BY_DTYPE, QUANTIZED, Tolerance, tolerance_for
from conf_server.engine.worker.token_statistics import statistics_torch
from conf_server.settings import SettingsError
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.trace import TraceRows
from tests.reference import token_statistics

LIMITS = Tolerance(mean=0.1, max=1.0, agreement=0.9)

# Three tokens, two candidates each: (token, first, second).
IDS = np.array([[7, 7, 3], [5, 4, 5], [9, 9, 1]], np.int32)
PROBABILITIES = np.array([[0.6, 0.6, 0.3], [0.2, 0.5, 0.2], [0.9, 0.9, 0.05]])
LOGPROBS = np.log(PROBABILITIES)


def engine(ids: Any = IDS, logprobs: Any = LOGPROBS) -> TraceRows:
    return TraceRows(ids, logprobs.astype(np.float64), np.ones(len(ids), np.int32))


def reference(logprobs: Any = LOGPROBS, best: Any = (7, 4, 9)) -> ReferenceRows:
    return ReferenceRows(logprobs[:, 0], logprobs[:, 1:], np.array(best), logprobs.max(1))


def difference(**fields: Any) -> Difference:
    same = Difference(
        num_tokens=10, mean=0.0, max=0.0, kl=0.0, coverage=1.0, agreement=1.0, regret=0.0, worst=0
    )
    return replace(same, **fields)


def report(
    *lines: Line,
    limits: Tolerance = LIMITS,
    statistics: bool = True,
    missing: tuple[Missing, ...] = (),
) -> Report:
    return Report("served", "original", "bfloat16", None, 20, limits, statistics, lines, missing)


# Arithmetic


def test_equal_rows_do_not_differ() -> None:
    found = compare(engine(), reference(), sampled=False)
    assert found == difference(num_tokens=3, coverage=pytest.approx((0.9 + 0.7 + 0.95) / 3))


def test_known_differences() -> None:
    shifted = LOGPROBS.copy()
    shifted[0, 0] -= 0.3
    shifted[2, 0] += 0.6
    found = compare(engine(logprobs=shifted), reference(), sampled=False)
    assert found is not None
    assert found.mean == pytest.approx(0.3)
    assert found.max == pytest.approx(0.6)
    assert (found.worst, found.agreement, found.kl) == (2, 1.0, 0.0)


def test_kl_is_that_of_the_reference_over_the_engines_candidates() -> None:
    ours = np.log([[0.6, 0.6, 0.3], [0.2, 0.4, 0.2], [0.9, 0.9, 0.05]])
    found = compare(engine(logprobs=ours), reference(), sampled=False)
    assert found is not None
    assert found.kl == pytest.approx(0.5 * np.log(0.5 / 0.4) / 3)


def test_a_candidate_that_the_reference_excludes_adds_nothing() -> None:
    theirs = LOGPROBS.copy()
    theirs[:, 2] = -np.inf
    found = compare(engine(), reference(theirs), sampled=False)
    assert found is not None
    assert (found.kl, found.coverage) == (0.0, pytest.approx(2.0 / 3))


def test_swapped_rows_are_far_apart() -> None:
    swapped = [1, 0, 2]
    found = compare(
        engine(),
        reference(LOGPROBS[swapped], best=np.array([7, 4, 9])[swapped]),
        sampled=False,
    )
    assert found is not None
    assert found.agreement == pytest.approx(1 / 3)
    assert found.max == pytest.approx(np.log(3))
    assert LIMITS.exceeded(found)


def test_a_choice_costs_what_the_reference_thinks_of_it() -> None:
    best = ReferenceRows(
        LOGPROBS[:, 0], LOGPROBS[:, 1:], np.array([7, 8, 9]), np.log([0.6, 0.55, 0.9])
    )
    found = compare(engine(), best, sampled=False)
    assert found is not None
    assert found.agreement == pytest.approx(2 / 3)
    assert found.regret == pytest.approx(np.log(0.55 / 0.5))


def test_of_generated_rows_the_choice_is_the_token() -> None:
    found = compare(engine(), reference(), sampled=True)
    assert found is not None
    assert found.agreement == pytest.approx(2 / 3)
    assert found.regret == pytest.approx(np.log(0.5 / 0.2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_infinitely_wrong(value: float) -> None:
    broken = LOGPROBS.copy()
    broken[1] = value
    for ours, theirs in ((broken, LOGPROBS), (LOGPROBS, broken)):
        found = compare(engine(logprobs=ours), reference(theirs), sampled=False)
        assert found is not None
        assert (found.mean, found.max, found.worst) == (np.inf, np.inf, 1)
        assert "mean inf" in LIMITS.exceeded(found)


def test_both_not_a_number_is_wrong_and_the_same_infinity_is_not() -> None:
    left = np.array([np.nan, -np.inf, np.inf, 1.0], np.float32)
    right = np.array([np.nan, -np.inf, -np.inf, 1.5])
    assert distances(left, right).tolist() == [np.inf, 0.0, np.inf, 0.5]


def test_no_token_no_difference() -> None:
    none = slice(0, 0)
    rows = ReferenceRows(LOGPROBS[none, 0], LOGPROBS[none, 1:], np.array([]), np.array([]))
    assert compare(engine(IDS[none], LOGPROBS[none]), rows, sampled=False) is None


def test_rows_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates"):
        compare(engine(), reference(LOGPROBS[:2], best=(7, 4)), sampled=False)


def test_pooled_counts_tokens_not_texts() -> None:
    found = pooled(
        [
            difference(num_tokens=1, mean=1.0, max=1.0, agreement=0.0, regret=0.5),
            difference(num_tokens=9, mean=0.0, max=0.2, agreement=1.0, regret=0.1),
        ]
    )
    assert found.num_tokens == 10
    assert (found.mean, found.max, found.agreement, found.regret) == (0.1, 1.0, 0.9, 0.5)


# Token statistics

TOP_K = 3
logit_rows = arrays(np.float32, (4, 9), elements=st.floats(-20, 20, width=32))


def rows_with_statistics(logits: Any, statistics: Any = "right") -> TraceRows:
    """What an engine says that has these logits: the likeliest token at each of n positions."""
    logprobs = log_softmax(logits)
    ids = np.argsort(-logprobs, axis=1)[:, :TOP_K]
    ids = np.column_stack((ids[:, 0], ids)).astype(np.int32)
    if isinstance(statistics, str):
        statistics = statistics_torch(torch.tensor(logits), [TOP_K] * len(logits)).numpy()
    found = np.take_along_axis(logprobs, ids.astype(np.int64), axis=1)
    return TraceRows(ids, found, np.ones(len(logits), np.int32), statistics)


def compared(logits: Any, rows: TraceRows) -> Difference:
    reference = reference_rows(logits, rows.token_ids, rows.candidate_ids, statistics=True)
    found = compare(rows, reference, sampled=False)
    assert found is not None
    return found


@given(logit_rows)
def test_the_references_statistics_are_those_of_their_definitions(logits: Any) -> None:
    logprobs = torch.tensor(logits).double().log_softmax(-1).numpy()
    found = reference_statistics(log_softmax(logits), TOP_K)
    np.testing.assert_allclose(found.values, token_statistics(logprobs, TOP_K), atol=1e-12)


def test_impossible_tokens_count_as_the_engine_counts_them() -> None:
    logits = np.array([[0.0, 1.0, -np.inf, 2.0, 0.5], [0.0, 1.0, -np.inf, -np.inf, -np.inf]])
    found = reference_statistics(log_softmax(logits), TOP_K).values
    ours = statistics_torch(torch.tensor(logits, dtype=torch.float32), [TOP_K] * 2).numpy()
    np.testing.assert_allclose(found, ours, rtol=1e-6)
    assert np.isinf(found[1, TokenStatistic.CONFIDENCE])


@given(logit_rows, logit_rows, st.floats(1e-5, 0.01))
def test_no_statistic_is_further_off_than_the_rows_log_probabilities(
    logits: Any, direction: Any, size: float
) -> None:
    ours, theirs = log_softmax(logits + size * direction / 20), log_softmax(logits)
    moved = np.abs(ours - theirs).max(axis=1, keepdims=True)
    reference = reference_statistics(theirs, TOP_K)
    apart = np.abs(reference_statistics(ours, TOP_K).values - reference.values)
    # The entropy's bound is of first order.
    room = np.where(np.arange(7) == TokenStatistic.ENTROPY, 20 * moved**2, 0) + 1e-12
    assert (apart <= reference.sensitivities * moved + room).all()


@settings(max_examples=20)
@given(arrays(np.float32, (130, 9), elements=st.floats(-20, 20, width=32)))
def test_rows_do_not_depend_on_how_many_are_taken_at_once(logits: Any) -> None:
    ids = np.argsort(-logits, axis=1)[:, :TOP_K]
    together = reference_rows(logits, ids[:, 1], ids, statistics=True)
    assert together.statistics is not None
    for at in (0, 63, 64, 129):
        alone = reference_rows(logits[at : at + 1], ids[at : at + 1, 1], ids[at : at + 1], True)
        assert alone.statistics is not None
        np.testing.assert_array_equal(alone.statistics.values[0], together.statistics.values[at])
        np.testing.assert_array_equal(alone.candidate_logprobs[0], together.candidate_logprobs[at])
        assert (alone.logprobs[0], alone.best_ids[0], alone.best_logprobs[0]) == (
            together.logprobs[at],
            together.best_ids[at],
            together.best_logprobs[at],
        )


def test_right_statistics_do_not_differ() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 500)).astype(np.float32)
    found = compared(logits, rows_with_statistics(logits))
    assert [column.name for column in found.statistics] == [
        column.name.lower() for column in TokenStatistic
    ]
    assert max(column.max for column in found.statistics) < 1e-5
    assert not BY_DTYPE["float32"].exceeded(found)


@pytest.mark.parametrize("column", TokenStatistic)
@pytest.mark.parametrize("wrong", [1e9, np.nan, np.inf, -np.inf])
def test_each_wrong_statistic_fails_by_its_name(column: TokenStatistic, wrong: float) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 50)).astype(np.float32)
    rows = rows_with_statistics(logits)
    assert rows.statistics is not None
    rows.statistics[2, column] = wrong
    found = compared(logits, rows)
    assert (found.mean, found.max, found.regret) == (0, 0, 0)
    assert found.worst_statistic is not None
    assert found.worst_statistic.name == column.name.lower()
    for limits in (*BY_DTYPE.values(), QUANTIZED):
        assert f"{column.name.lower()} mean" in limits.exceeded(found)
        assert f"{column.name.lower()} max" in limits.exceeded(found)


def test_a_confidence_of_one_candidate_too_few_fails_in_float32() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 50)).astype(np.float32)
    narrow = statistics_torch(torch.tensor(logits), [TOP_K - 1] * 4).numpy()
    found = compared(logits, rows_with_statistics(logits, narrow))
    assert BY_DTYPE["float32"].exceeded(found).startswith("confidence mean")


def test_statistics_on_one_side_only_are_refused() -> None:
    logits = np.zeros((2, 9), np.float32)
    with pytest.raises(ValueError, match="one side only"):
        compared(logits, rows_with_statistics(logits, None))
    rows = rows_with_statistics(logits)
    with pytest.raises(ValueError, match="one side only"):
        compare(rows, reference_rows(logits, rows.token_ids, rows.candidate_ids, False), True)


def test_without_the_engines_statistics_none_are_compared() -> None:
    logits = np.zeros((2, 9), np.float32)
    rows = rows_with_statistics(logits, None)
    bare = reference_rows(logits, rows.token_ids, rows.candidate_ids, statistics=False)
    found = compare(rows, bare, sampled=False)
    assert found is not None
    assert (found.statistics, found.worst_statistic) == ((), None)
    passed = report(Line("chat", "prompt", found), statistics=False)
    assert passed.ok
    assert "Not compared: token statistics: this engine computes none" in passed.table()
    answer = passed.as_json()
    assert answer["token_statistics"] == "topk"
    assert (answer["lines"][0]["statistics"], answer["lines"][0]["worst_statistic"]) == (None, None)


def test_pooled_statistics_count_tokens_not_texts() -> None:
    one = difference(num_tokens=1, statistics=(StatisticDifference("entropy", 1.0, 1.0),))
    nine = difference(num_tokens=9, statistics=(StatisticDifference("entropy", 0.0, 2.0),))
    assert pooled([one, nine]).statistics == (StatisticDifference("entropy", 0.1, 2.0),)
    assert pooled([one, difference()]).statistics == ()


# Tolerance and verdict


@pytest.mark.parametrize(
    ("dtype", "quantization", "expected"),
    [
        ("float32", None, BY_DTYPE["float32"]),
        ("float16", None, BY_DTYPE["float16"]),
        ("bfloat16", None, BY_DTYPE["bfloat16"]),
        ("float8", None, BY_DTYPE["bfloat16"]),
        ("bfloat16", "fp8", QUANTIZED),
    ],
)
def test_the_tolerance_follows_the_engine(
    dtype: str, quantization: str | None, expected: Tolerance
) -> None:
    assert tolerance_for(dtype, quantization) == expected
    assert tolerance_for(dtype, quantization, mean=0.0, max=7.0, agreement=None) == Tolerance(
        0.0, 7.0, expected.agreement
    )


def test_rougher_numbers_have_wider_limits() -> None:
    order = [*(BY_DTYPE[name] for name in ("float32", "float16", "bfloat16")), QUANTIZED]
    assert [limits.mean for limits in order] == sorted(limits.mean for limits in order)
    assert [limits.max for limits in order] == sorted(limits.max for limits in order)
    assert [limits.agreement for limits in order] == sorted(
        (limits.agreement for limits in order), reverse=True
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, None),
        ({"mean": 0.1, "max": 1.0, "agreement": 0.9, "regret": 1.0}, None),
        ({"mean": 0.11}, "chat/prompt: mean 0.11 > 0.1"),
        ({"max": 1.5}, "chat/prompt: max 1.5 > 1"),
        ({"mean": 0.2, "max": 2.0}, "chat/prompt: mean 0.2 > 0.1, max 2 > 1"),
        ({"regret": 3.0}, "chat/prompt: regret 3 > 1"),
        ({"mean": np.nan}, "chat/prompt: mean nan > 0.1"),
        ({"statistics": (StatisticDifference("entropy", 0.2, 1.0),)}, None),
        (
            {"statistics": (StatisticDifference("entropy", 0.3, 2.0),)},
            "chat/prompt: entropy mean 0.3 > 0.2, entropy max 2 > 1",
        ),
        ({"agreement": 0.8}, "all/prompt: argmax 80.0% < 90%"),
    ],
)
def test_the_verdict_names_what_is_past_the_tolerance(
    fields: dict[str, Any], message: str | None
) -> None:
    found = report(Line("chat", "prompt", difference(**fields)))
    assert found.failures() == ([message] if message else [])
    assert found.ok is (message is None)
    assert found.verdict().startswith("FAIL" if message else "PASS")


def test_one_near_tie_in_a_short_text_does_not_fail() -> None:
    short = Line("short", "prompt", difference(num_tokens=4, agreement=0.75))
    long = Line("long", "prompt", difference(num_tokens=96, agreement=1.0))
    assert report(short, long).ok
    assert not report(short).ok
    other_kind = replace(long, kind="generated")
    assert report(short, other_kind).failures() == ["all/prompt: argmax 75.0% < 90%"]


def test_nothing_compared_proves_nothing() -> None:
    assert not report().ok
    assert "nothing was compared" in report().verdict()


# Readings that are not there


def test_a_text_shorter_than_a_block_has_no_cached_rows() -> None:
    assert expected_kinds(1, 16) == ("generated", "batched")
    assert expected_kinds(17, 16) == ("prompt", "generated", "batched")
    assert expected_kinds(18, 16) == ("prompt", "cached", "generated", "batched")


def test_what_is_expected_and_not_found_fails() -> None:
    found = {("long", kind) for kind in ("prompt", "generated", "batched")}
    absent = missing_readings({"long": [1] * 40}, 16, "", found)
    assert absent == [Missing("long", "cached")]
    failed = report(Line("long", "prompt", difference()), missing=tuple(absent))
    message = "long/cached: missing, nothing came from the prefix cache"
    assert (failed.ok, failed.failures()) == (False, [message])
    assert failed.as_json()["missing"] == [{"text": "long", "rows": "cached", "excuse": None}]
    (line,) = (line for line in failed.table().splitlines() if line.startswith("long  cached"))
    assert line.split(maxsplit=3)[2:] == ["0", "missing, nothing came from the prefix cache"]


def test_no_excuse_covers_rows_that_need_no_cache() -> None:
    absent = missing_readings({"long": [1] * 40}, 16, "prefix caching is off", set())
    assert [one.kind for one in absent if not one.excuse] == ["prompt", "generated", "batched"]


def test_what_could_not_be_expected_is_said_and_does_not_fail() -> None:
    texts = {"long": [1] * 40, "longer": [1] * 50, "short": [1]}
    kinds = ("prompt", "generated", "batched")
    found = {(name, kind) for name in texts for kind in kinds}
    absent = missing_readings(texts, 16, "prefix caching is off", found)
    passed = report(Line("long", "prompt", difference()), missing=tuple(absent))
    assert passed.ok
    assert "Not compared: long/cached, longer/cached: prefix caching is off." in passed.table()
    assert [one["excuse"] for one in passed.as_json()["missing"]] == ["prefix caching is off"] * 2


@pytest.mark.parametrize(
    ("flags", "excuse"),
    [
        ({}, ""),
        ({"enable_prefix_caching": False}, "prefix caching is off"),
        ({"data_parallel_size": 2}, "different data-parallel engines"),
        ({"decode_context_parallel_size": 2}, "context parallelism"),
        ({"is_hybrid": True}, "layers with a state"),
        ({"speculative_config": object()}, "speculative decoding"),
    ],
)
def test_when_nothing_need_come_from_the_prefix_cache(flags: dict[str, Any], excuse: str) -> None:
    options = SimpleNamespace(
        enable_prefix_caching=True, data_parallel_size=1, decode_context_parallel_size=1
    )
    options.speculative_config, options.is_hybrid = None, False
    vars(options).update(flags)
    config = SimpleNamespace(cache_config=options, parallel_config=options, model_config=options)
    config.speculative_config = options.speculative_config
    assert excuse in cache_excuse(config)
    assert bool(cache_excuse(config)) is bool(excuse)


# What is printed

STATISTICS = (StatisticDifference("confidence", 0.01, 0.02), StatisticDifference("entropy", 0, 0.5))
WORST = WorstToken(41, "The capital\nof", " Paris", -0.25, -9.5)


def test_the_table_has_a_line_for_each_text_and_kind_and_one_for_each_kind() -> None:
    found = report(
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
    found = report(
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


# Texts


class Characters:
    """A tokenizer whose tokens are characters."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        return f"<{messages[0]['content']}>"


def test_the_chat_is_as_the_template_writes_it() -> None:
    ids = tokenized(Characters("template"), {}, 4000, 128, 32)
    assert Characters().decode(ids["chat"]) == "<What is the capital of France?>"
    assert "chat" not in tokenized(Characters(), {}, 4000, 128, 32)


@pytest.mark.parametrize(("block", "new_tokens"), [(128, 32), (16, 32), (16, 100), (1, 1)])
def test_generation_crosses_the_border_of_a_block(block: int, new_tokens: int) -> None:
    (length,) = (len(ids) for name, ids in _texts(block, new_tokens).items() if name == "border")
    assert length >= 1
    assert length // block < (length + new_tokens) // block


def test_no_border_where_a_block_is_longer_than_the_prose() -> None:
    assert "border" not in _texts(10_000, 32)


def test_texts_are_cut_at_the_limit_and_the_users_come_too() -> None:
    ids = tokenized(Characters(), {"line 1": "Hello"}, 100, 128, 32)
    assert ids["line 1"] == Characters().encode("Hello")
    assert max(map(len, ids.values())) == 100


def _texts(block: int, new_tokens: int) -> dict[str, list[int]]:
    return tokenized(Characters(), {}, 10_000, block, new_tokens)


def test_a_file_holds_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("one\n\n  \nzwei Wörter\n", encoding="utf-8")
    assert texts_of(path) == {"line 1": "one", "line 4": "zwei Wörter"}


def test_only_newlines_end_a_text_and_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    strange = "one\u2028still\x85one\x0c, \rreally"
    path = tmp_path / "texts"
    path.write_bytes(f"\ufefffirst\r\n{strange}\nthird".encode())
    assert texts_of(path) == {"line 1": "first", "line 2": strange, "line 3": "third"}


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_texts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "texts"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextsError, match="--texts"):
        texts_of(path)


# The command


def test_our_flags_are_taken_and_the_engines_left() -> None:
    ours = ["--json", "--reference=ORIGINAL", "--tolerance-max", "0.5"]
    options, others = parse_options(
        ["PATH", "--dtype", "bfloat16", *ours, "-tp", "2", "--no-enforce-eager"]
    )
    assert others == ["PATH", "--dtype", "bfloat16", "-tp", "2", "--no-enforce-eager"]
    assert (options.json, options.reference, options.new_tokens) == (True, "ORIGINAL", 32)
    assert (options.tolerance_mean, options.tolerance_max) == (None, 0.5)
    assert options.tolerance_agreement is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--new-tokens", "0"], "--new-tokens: must be a whole number"),
        (["--new-tokens", "many"], "--new-tokens: must be a whole number"),
        (["--tolerance-mean", "-1"], "--tolerance-mean: must be a number of at least 0"),
        (["--tolerance-max", "nan"], "--tolerance-max: must be a number of at least 0"),
        (["--reference-device", "abacus"], "--reference-device: invalid choice"),
        (["--reference"], "--reference: expected one argument"),
    ],
)
def test_bad_usage_of_our_flags_is_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--model", "PATH", *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [SettingsError("--model: it is no model"), TextsError("--texts x: no text in it")]
)
def test_what_does_not_go_together_is_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse(_: list[str]) -> None:
        raise error

    monkeypatch.setattr(command, "engine_flags", refuse)
    assert command.main(["--model", "PATH"]) == 2
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", f"conf-server check: error: {error}\n")


@pytest.mark.parametrize(("mean", "status"), [(0.0, 0), (9.0, 1)])
@pytest.mark.parametrize("as_json", [False, True])
def test_status_and_stdout(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mean: float,
    status: int,
    as_json: bool,
) -> None:
    found = report(Line("chat", "prompt", difference(mean=mean), WORST))

    def noisy(*_: object) -> Report:
        print("a log line")
        os.write(1, b"another process\n")
        return found

    monkeypatch.setattr(command, "engine_flags", list)
    monkeypatch.setattr(command, "check", noisy)
    assert cli.main(["check", "--model", "PATH", *["--json"] * as_json]) == status
    printed = capfd.readouterr()
    assert printed.out == (json.dumps(found.as_json()) if as_json else found.table()) + "\n"
    assert "a log line" in printed.err
    assert "another process" in printed.err
    print("stdout is back")
    assert capfd.readouterr().out == "stdout is back\n"


def test_an_engine_that_dies_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> Report:
        raise RuntimeError("EngineCore encountered an issue")

    monkeypatch.setattr(command, "engine_flags", list)
    monkeypatch.setattr(command, "check", die)
    with pytest.raises(RuntimeError, match="EngineCore"):
        command.main(["--model", "PATH"])


@pytest.fixture
def engineless(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """`check` on an engine and a reference made up here; what the models were loaded with."""
    hub: dict[str, dict[str, Any]] = {}
    logits = np.random.default_rng(0).normal(0, 3, (1, 50)).astype(np.float32)
    rows = rows_with_statistics(logits)
    ids = [1] * 40

    class Scorer:
        def __init__(self, path: str, _device: object, **options: Any) -> None:
            hub[path] = options

    class Reference:
        def __init__(self, _scorer: Scorer) -> None:
            pass

        def rows(self, reading: Reading, statistics: bool) -> ReferenceRows:
            return reference_rows(logits, rows.token_ids, rows.candidate_ids, statistics)

    async def read_engine(*_: object) -> command.EngineAnswers:
        numerics = SimpleNamespace(dtype="float32", quantization=None, block_size=16)
        kinds: Any = ("prompt", "generated", "batched")
        readings = [
            Reading("long", kind, [*ids[:-1], int(rows.token_ids[0])], rows) for kind in kinds
        ]
        return command.EngineAnswers(numerics, True, "", {"long": ids}, readings)

    module = "conf_server.check.transformers_scorer"
    monkeypatch.setattr("conf_server.check.reference.Reference", Reference)
    monkeypatch.setattr(f"{module}.TransformersScorer", Scorer)
    monkeypatch.setattr(f"{module}.load_tokenizer", lambda *_: Characters())
    monkeypatch.setattr(
        f"{module}.require_model", lambda path, options: hub.update({path: options})
    )
    monkeypatch.setattr(command, "read_engine", read_engine)
    return hub


SERVED = Namespace(model="served", tokenizer=None, revision="abc", trust_remote_code=True)


def test_a_prefix_cache_that_gives_nothing_fails_the_check(engineless: object) -> None:
    options, _ = parse_options([])
    found = command.check(options, SERVED)
    assert [line.kind for line in found.lines] == ["prompt", "generated", "batched"]
    assert found.failures() == ["long/cached: missing, nothing came from the prefix cache"]


def test_the_reference_runs_the_code_that_the_user_trusts(
    engineless: dict[str, dict[str, Any]],
) -> None:
    command.check(parse_options(["--reference", "original"])[0], SERVED)
    assert engineless == {"original": {"trust_remote_code": True, "revision": None}}
    command.check(parse_options([])[0], SERVED)
    assert engineless["served"] == {"trust_remote_code": True, "revision": "abc"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_check_with_its_status(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> Report:
        signal.raise_signal(number)
        raise AssertionError("the signal was overlooked")

    before = signal.getsignal(number)
    monkeypatch.setattr(command, "engine_flags", list)
    monkeypatch.setattr(command, "check", interrupted)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--model", "PATH"])
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_help_needs_no_engine() -> None:
    code = """if True:
        import atexit, sys
        from conf_server.check.command import main
        atexit.register(lambda: print("loaded:", {"vllm", "torch"} & set(sys.modules)))
        main(["--help"])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--reference PATH" in done.stdout
    assert done.stdout.endswith("loaded: set()\n")
