"""benchmarks: what a command line plans, and what the tables say of made-up samples."""

from __future__ import annotations

import pytest

from benchmarks import plan, scoring_cost, states_cost, uncertainty_cost
from benchmarks.backends_table import Found
from benchmarks.load_client import Sample
from benchmarks.plan import arguments, planned
from benchmarks.results import Report
from benchmarks.servers import CONF, OLD, STOCK
from benchmarks.worker_kernels import KernelTimes


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "runs_on_cuda", lambda: True)


def test_a_shape_is_served_without_weights() -> None:
    made = planned(arguments(["--shape", "8B", "--server-args=--max-num-seqs=8"]))
    assert made.model.endswith("/8B")
    assert made.server_flags[0] == "--load-format=dummy"
    assert made.server_flags[-1] == "--max-num-seqs=8"
    assert not made.transformers  # which would have no weights to load


@pytest.mark.usefixtures("on_cuda")
def test_a_gpu_is_measured_as_it_is_used() -> None:
    made = planned(arguments([]))
    assert "--dtype=bfloat16" in made.server_flags
    assert "--enforce-eager" not in made.server_flags
    assert (made.concurrency, max(made.concurrencies)) == (256, 256)


@pytest.mark.parametrize(
    ("tables", "servers"),
    [("1,2", [CONF, STOCK, OLD]), ("3,5", [CONF, STOCK]), ("4", [CONF]), ("5,6", [])],
)
def test_only_servers_that_the_tables_need_are_started(tables: str, servers: list[str]) -> None:
    assert planned(arguments(["--tables", tables])).servers == servers


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--tables", "8"], "--tables takes 1, 2, 3, 4, 5, 6, 7"),
        (["--rounds", "0"], "must be positive"),
        (["--shape", "1B", "--model", "x"], "--shape takes the place of --model"),
        (["--shape", "70B"], "invalid choice"),
    ],
)
def test_a_wrong_command_is_refused(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        arguments(argv)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def samples(*seconds: float) -> list[Sample]:
    return [Sample(taken, {"api": 0.002}, tokens=1000, items=2, received=10) for taken in seconds]


def test_ratios_are_within_a_round_and_figures_are_medians() -> None:
    report = Report({})
    report.score = {
        (CONF, scoring_cost.PREFILL): samples(1.0, 2.0, 4.0),
        (CONF, scoring_cost.COLD): samples(1.1, 2.0, 4.4),
    }
    text = report.markdown()
    assert "| conf-server | /v1/score, cold | 2.00 | 1.10 | 1.00 | 1.00 | 5 | 1.00 |" in text
    assert "| /v1/score cold, seconds, × prefill | ≤ 1.15 | 1.10 | 1.00 to 1.10 | yes |" in text


def test_states_are_compared_with_a_plain_prefill_of_as_many_new_tokens() -> None:
    report = Report({})
    for name, seconds, peak in (
        (states_cost.PLAIN_CACHED, 1.0, 800.0),
        (states_cost.RAUQ, 1.2, 808.0),
        (states_cost.PLAIN_WHOLE, 4.0, 800.0),
        (states_cost.DENSITY, 4.2, 880.0),
        (states_cost.EVERYTHING, 5.0, 800.0),
    ):
        report.states.add((CONF, name), samples(seconds)[0], peak)
    forward = (states_cost.TRANSFORMERS, states_cost.FORWARD)
    report.states.add(forward, samples(12.0)[0], 1600.0)
    text = report.markdown()
    assert "| 1.20 | 1.20 | 1.00 | 1.00 | 808 | 1.01 |" in text
    assert f"| {states_cost.DENSITY}, seconds, × plain prefill | ≤ 1.1 | 1.05 |" in text
    assert f"| {states_cost.DENSITY}, worker's memory, × | ≤ 1.05 | 1.10 |" in text
    assert f"× {states_cost.RAUQ} | ≥ 5.0 | 10.00 |" in text


def test_values_of_three_backends_stand_side_by_side() -> None:
    report = Report({})
    report.backends = {
        "engine": Found({"rauq": 1.9, "perplexity": 1.4}, {"rauq": 0.1, "perplexity": 0.1}, 4000),
        "scorer": Found({"rauq": 1.90001}, {"rauq": 0.2}, 6000),
        "transformers, int8": Found({"rauq": 1.8}, {"rauq": 0.3}, 1400),
    }
    text = report.markdown()
    assert "| `rauq` | 1.90000 | 1.90001 | 1.80000 | 1.0e-05 | 0.100 | 0.200 | 0.300 |" in text
    assert "| `perplexity` | 1.40000 | – | – | – | 0.100 | – | – |" in text
    assert "| peak memory, MB | 4,000 | 6,000 | 1,400 |" in text


def test_kernels_are_compared_with_the_quicker_of_vllms() -> None:
    report = Report({})
    times = {"statistics": 0.2, "top-20, V1": 2.0, "top-20, V2": 0.5, "argmax": 0.1}
    report.kernels = [KernelTimes("bfloat16", 32, 128_256, times)]
    text = report.markdown()
    assert "| bfloat16 | 128,256 | 32 | 0.2 | 2 | 0.5 | 0.1 | 0.40 |" in text
    assert "| ≤ 0.25 | 0.40 | 0.40 to 0.40 | no |" in text


def test_a_trial_is_not_held_against_the_aims() -> None:
    report = Report({}, trial=True)
    report.score = {(CONF, scoring_cost.PREFILL): samples(1.0)}
    assert "### Aims" not in report.markdown()


def test_every_estimator_that_reads_no_layers_is_timed() -> None:
    timed = uncertainty_cost.estimator_us(samples=2, tokens=5)
    assert {"perplexity", "semantic_entropy", uncertainty_cost.JUDGEMENTS} <= timed.keys()
    assert not {"rauq", "linear_probe", "uhead", "eigenscore"} & timed.keys()
