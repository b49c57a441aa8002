"""The flags of a check."""

from __future__ import annotations

import pytest

from conf_server.check import command
from conf_server.check.options import parse_options


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
