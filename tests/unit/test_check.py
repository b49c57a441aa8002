"""conf-server check without an engine: the arithmetic, the verdict, what is printed, bad usage."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server import cli
from conf_server.check import command
from conf_server.check.compare import Difference, ReferenceRows, compare, distances, pooled
from conf_server.check.options import parse_options
from conf_server.check.report import Line, Report, WorstToken
from conf_server.check.texts import TextsError, texts_of, tokenized
from conf_server.check.tolerance import BY_DTYPE, QUANTIZED, Tolerance, tolerance_for
from conf_server.settings import SettingsError
from conf_server.stats.trace import TraceRows

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


def report(*lines: Line, limits: Tolerance = LIMITS) -> Report:
    return Report("served", "original", "bfloat16", None, 20, limits, lines)


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
        ({"agreement": 0.8}, "all/prompt: argmax 80.0% < 90%"),
    ],
)
def test_the_verdict_names_what_is_past_the_tolerance(
    fields: dict[str, float], message: str | None
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


# What is printed

WORST = WorstToken(41, "The capital\nof", " Paris", -0.25, -9.5)


def test_the_table_has_a_line_for_each_text_and_kind_and_one_for_each_kind() -> None:
    found = report(
        Line("chat", "prompt", difference(mean=0.01), WORST),
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
    assert "12.500" in lines[1]
    assert "50.0%" in lines[1]
    assert "FAIL: 2 comparisons, bfloat16; tolerance: mean 0.1, max 1, argmax 90%" in lines[5]
    assert "chat/generated: max 12.5 > 1" in lines[6]


def test_json_is_json_whatever_was_found() -> None:
    bad = difference(mean=np.inf, max=np.inf, kl=np.nan, regret=np.inf)
    found = report(
        Line("chat", "prompt", difference(), WORST),
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


def test_help_needs_no_engine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    assert "--reference PATH" in capsys.readouterr().out
    assert "conf_server.check.reference" not in sys.modules
