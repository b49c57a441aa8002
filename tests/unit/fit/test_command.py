"""`conf-server fit` against a server whose states are known."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.fit import command
from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.fitted import (
    FITTABLE,
    Gaussian,
    KernelDensity,
    LinearProbe,
    RankedGaussian,
    RelativeGaussian,
)
from conf_server.uncertainty.registry import METHODS
from tests.unit.batch.fake_server import error
from tests.unit.fit.states_server import (
    HEADS,
    NUM_LAYERS,
    WIDTH,
    Fit,
    StatesServer,
    lines,
    lookback,
    state,
)

ERROR = "conf-server fit: error: "


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def texts(given: list[dict[str, Any]]) -> list[str]:
    return [line["prompt"] + line["completion"] for line in given]


def test_all_methods_at_once(fitting: Fit) -> None:
    given = lines(60)
    fitting.write(*given)
    fitting.write(*lines(40), path=fitting.background)
    words = ["--methods", ",".join(FITTABLE), "--rde-components", "5"]
    assert fitting.run(*words, "--background", str(fitting.background)) == 0
    fitted = fitting.fitted()
    assert set(fitted.methods) == set(FITTABLE)
    assert (fitted.model.hidden_size, fitted.model.num_layers) == (WIDTH, NUM_LAYERS)
    states = np.stack([state(text, NUM_LAYERS, "all") for text in texts(given)])
    density = fitted.methods["mahalanobis_distance"].learned
    assert isinstance(density, Gaussian)
    np.testing.assert_allclose(density.mean, states.mean(axis=0), rtol=1e-5)
    of_answers = np.stack([state(text, NUM_LAYERS, "completion") for text in texts(given)])
    answers = fitted.methods["mahalanobis_distance_answer"].learned
    assert isinstance(answers, Gaussian)
    np.testing.assert_allclose(answers.mean, of_answers.mean(axis=0), rtol=1e-5)
    background = fitted.methods["relative_mahalanobis_distance"].learned
    assert isinstance(background, RelativeGaussian)
    assert not np.allclose(background.background.mean, density.mean)
    ranks = fitted.methods["ppl_md"].learned
    assert isinstance(ranks, RankedGaussian)
    assert len(ranks.distances) == 18
    assert ranks.negative_mean_logprobs.tolist() == sorted(map(len, texts(given)))
    assert not (fitting.folder / "states").exists()


def test_probes_learn_what_the_labels_say(fitting: Fit) -> None:
    fitting.write(*lines(60), {"prompt": "p", "completion": " unknown"})
    assert fitting.run("--methods", "linear_probe,saplma", "--epochs", "40") == 0
    fitted = fitting.fitted()
    for name in ("linear_probe", "saplma"):
        method = fitted.methods[name]
        assert (method.layer, method.num_texts) == (NUM_LAYERS // 2, 60)
        assert method.facts["wrong"] == 30
        assert method.facts["auroc"] > 0.95
        found = []
        for text in ("new right", "new wrong"):
            states = {method.layer: state(text, method.layer, "last").astype(float)}
            estimate = METHODS[name].estimate(Evidence(fitted=fitted, last_states=states))
            found.append(estimate.value)
        assert found[0] < 0.2 < 0.8 < found[1]


def test_lookback_lens_reads_all_heads_of_all_layers(fitting: Fit) -> None:
    fitting.write(*lines(60))
    assert fitting.run("--methods", "lookback_lens") == 0
    method = fitting.fitted().methods["lookback_lens"]
    assert (method.layer, method.num_texts) == (None, 60)
    assert isinstance(method.learned, LinearProbe)
    assert method.learned.width == NUM_LAYERS * HEADS
    assert method.facts["auroc"] > 0.95
    ratios = {text: lookback(text).flatten().astype(float) for text in ("new right", "new wrong")}
    right, wrong = (
        METHODS["lookback_lens"].estimate(Evidence(fitted=fitting.fitted(), lookback_ratios=found))
        for found in ratios.values()
    )
    assert right.value is not None
    assert wrong.value is not None
    assert right.value < 0.3 < 0.7 < wrong.value
    assert wrong.details == {"layer": None, "texts": 60}


def test_lookback_lens_has_no_layer(fitting: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fitting.write(*lines(10))
    with pytest.raises(SystemExit) as error:
        fitting.run("--methods", "lookback_lens", "--layers", "lookback_lens=3")
    assert error.value.code == 2
    assert last_line(capsys).endswith("--layers: lookback_lens reads all layers")


def test_the_same_lines_give_the_same_fit_whatever_the_order_of_answers(
    fitting: Fit, server: StatesServer, tmp_path: Path
) -> None:
    fitting.write(*lines(60))
    words = ["--methods", "mahalanobis_distance,rde,ppl_md", "--rde-components", "5"]
    assert fitting.run(*words, "--concurrency", "1") == 0
    first = fitting.facts()["arrays_sha256"]
    assert fitting.run(*words, "--concurrency", "16", "--overwrite") == 0
    assert fitting.facts()["arrays_sha256"] == first


def test_a_run_goes_on_where_it_stopped(
    fitting: Fit, server: StatesServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting.write(*lines(20))
    refused = {"p3", "p4"}
    server.behave = lambda body: error(400, "too long") if body["prompt"] in refused else None
    assert fitting.run("--methods", "mahalanobis_distance") == 1
    assert last_line(capsys).startswith(f"{ERROR}2 requests have failed")
    assert not (fitting.folder / "fitted.json").exists()
    refused.remove("p3")
    server.bodies.clear()
    assert fitting.run("--methods", "mahalanobis_distance", "--allow-failed") == 0
    assert set(server.prompts()) == {"p3", "p4"}
    assert fitting.fitted().methods["mahalanobis_distance"].num_texts == 19


def test_states_of_other_weights_are_not_mixed_in(
    fitting: Fit, server: StatesServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting.write(*lines(4))
    server.behave = lambda body: error(400) if body["prompt"] == "p3" else None
    assert fitting.run("--methods", "mahalanobis_distance") == 1
    server.weights = "sha256:others"
    assert fitting.run("--methods", "mahalanobis_distance") == 2
    assert "it was fitted on the weights of" in last_line(capsys)
    server.behave = lambda body: None
    assert fitting.run("--methods", "mahalanobis_distance", "--overwrite") == 0


def test_end_tokens_count_in_perplexity_and_in_no_state(fitting: Fit, server: StatesServer) -> None:
    finished = {"text": " yes", "finished": True}
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]
    fitting.write({"prompt": "p", "completion": finished}, {"messages": chat}, *lines(8))
    assert fitting.run("--methods", "ppl_md", "--concurrency", "1") == 0
    of_states, of_ranks = server.bodies[:2], server.bodies[10:12]
    assert [body["completion"] for body in of_states] == [{"text": " yes"}, "yes"]
    assert [body["completion"] for body in of_ranks] == [finished, {**finished, "text": "yes"}]
    assert of_states[1]["messages"] == chat[:1]


def test_layers(fitting: Fit, server: StatesServer) -> None:
    fitting.write(*lines(20))
    words = ["--methods", "linear_probe,mahalanobis_distance,rde", "--rde-components", "2"]
    assert fitting.run(*words, "--layers", "linear_probe=1,-2") == 0
    layers = {name: method.layer for name, method in fitting.fitted().methods.items()}
    assert layers == {"linear_probe": 1, "mahalanobis_distance": 5, "rde": 5}
    asked = {(body["pooling"], *body["layers"]) for body in server.bodies}
    assert asked == {("last", 1), ("mean", 5)}


def test_methods_with_different_layers_share_a_pass(fitting: Fit, server: StatesServer) -> None:
    given = lines(20)
    fitting.write(*given)
    words = ["--methods", "mahalanobis_distance,rde", "--rde-components", "2"]
    assert fitting.run(*words, "--layers", "rde=3") == 0
    assert len(server.bodies) == 20
    kernel = fitting.fitted().methods["rde"].learned
    assert isinstance(kernel, KernelDensity)
    np.testing.assert_array_equal(kernel.support[0], state(texts(given)[0], 3, "all"))


def test_memory_is_bounded_by_samples(fitting: Fit) -> None:
    fitting.write(*lines(60))
    words = ["--methods", "rde,linear_probe", "--rde-components", "2"]
    assert fitting.run(*words, "--reservoir", "10", "--probe-lines", "30") == 0
    methods = fitting.fitted().methods
    assert {name: method.num_texts for name, method in methods.items()} == {
        "rde": 10,
        "linear_probe": 30,
    }
    assert all(method.facts["texts_seen"] == 60 for method in methods.values())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "not a JSON object"),
        ('{"prompt": "p", "correct": "yes"}', "`correct` must be true or false"),
        ('{"prompt": "p", "items": []}', "`items`: put each text on a line of its own"),
        ('{"prompt": "p", "layers": [1]}', "`layers`: the command's flags say that"),
        ('{"prompt": "p", "model": "lora"}', "`model`: a fit is of one model"),
    ],
)
def test_a_wrong_line_is_one_line_before_anything_is_asked(
    fitting: Fit, server: StatesServer, capsys: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    fitting.write(*lines(3), line)
    assert fitting.run("--methods", "mahalanobis_distance") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{ERROR}{fitting.train}, line 4: {reason}")
    assert not server.bodies


def test_a_text_without_an_answer_is_of_no_use_to_methods_of_answers(
    fitting: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting.write({"prompt": "just a text"}, {"prompt": "another"}, {"prompt": "a third"})
    assert fitting.run("--methods", "mahalanobis_distance") == 0
    words = ["--methods", "mahalanobis_distance_answer", "--overwrite"]
    assert fitting.run(*words) == 1
    assert "line 1: `completion`: one of --methods reads an answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--methods", "perplexity"], "--methods: no method 'perplexity' is fitted"),
        (["--methods", "rde", "--layers", "x"], "'x' names no layer"),
        (["--methods", "rde", "--layers", "1,2"], "two layers for all methods"),
        (["--methods", "rde", "--layers", "saplma=1"], "saplma is none of --methods"),
        (["--methods", "relative_mahalanobis_distance"], "--background: "),
        (["--methods", "rde", "--background", "x"], "no method of rde compares with it"),
        (["--methods", "rde", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--methods", "rde", "--reservoir", "0"], "--reservoir"),
    ],
)
def test_a_wrong_flag_is_one_line(
    fitting: Fit, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    fitting.write(*lines(3))
    with pytest.raises(SystemExit) as exited:
        fitting.run(*words)
    assert exited.value.code == 2
    assert reason in last_line(capsys)


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["--methods", "linear_probe"], 1, "3 right and 1 wrong answers, and 2 of each"),
        (["--methods", "rde"], 1, "rde: 4 texts are too few for 100 components"),
        (["--methods", "rde", "--layers", "7"], 1, "7 is no layer of the model, which has 6"),
    ],
)
def test_what_cannot_be_learned_is_one_line(
    fitting: Fit,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    reason: str,
) -> None:
    fitting.write(*({"prompt": f"p{n}", "correct": n > 0} for n in range(4)))
    assert fitting.run(*words) == status
    assert reason in last_line(capsys)


@pytest.mark.parametrize(
    ("module", "package", "method"),
    [
        ("sklearn", "scikit-learn", "rde"),
        ("safetensors", "safetensors", "mahalanobis_distance"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(
    fitting: Fit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    package: str,
    method: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    fitting.write(*lines(4))
    with pytest.raises(SystemExit):
        fitting.run("--methods", method)
    assert f"{package} is not installed: pip install 'conf-server[fit]'" in last_line(capsys)


def test_files_that_are_of_no_use(fitting: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fitting.run("--methods", "rde") == 2
    assert "No such file" in last_line(capsys)
    fitting.write("")
    assert fitting.run("--methods", "rde") == 2
    assert "there is no line in it" in last_line(capsys)
    fitting.write({"prompt": "p"})
    assert fitting.run("--methods", "saplma") == 2
    assert "no line has `correct`" in last_line(capsys)


def test_a_damaged_file_is_one_line(fitting: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fitting.train = fitting.train.with_suffix(".jsonl.gz")
    whole = gzip.compress(json.dumps({"prompt": "p" * 10_000}).encode())
    for content in (whole[:-12], b"no gzip at all", whole[:20] + b"x" * 20):
        fitting.train.write_bytes(content)
        assert fitting.run("--methods", "rde") == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"{ERROR}{fitting.train}: after line 0: ")


def test_a_fit_is_not_overwritten_unasked(fitting: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fitting.write(*lines(4))
    assert fitting.run("--methods", "mahalanobis_distance", "--keep-states") == 0
    assert (fitting.folder / "states/train.text.jsonl").exists()
    with pytest.raises(SystemExit):
        fitting.run("--methods", "mahalanobis_distance")
    assert "--overwrite makes another" in last_line(capsys)


def test_a_server_without_hidden_states_says_so(
    fitting: Fit, server: StatesServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting.write(*lines(4))
    server.app.router.routes[:] = [
        route for route in server.app.routes if route.path != "/v1/hidden_states"
    ]
    assert fitting.run("--methods", "mahalanobis_distance") == 1
    assert "no such route" in last_line(capsys)


def test_numbers_that_are_none_are_refused(
    fitting: Fit, server: StatesServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fitting.write(*lines(4))
    assert fitting.run("--methods", "mahalanobis_distance", "--keep-states") == 0
    (fitting.folder / "fitted.json").unlink()
    path = fitting.folder / "states/train.text.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    (result,) = found[1]["result"]["data"]
    result["states"] = "AADAfwAAwH8AAMB/AADAfw=="  # NaN, four times
    path.write_text("".join(json.dumps(line) + "\n" for line in found))
    assert fitting.run("--methods", "mahalanobis_distance") == 1
    assert f"line {found[1]['line']}: its hidden state" in last_line(capsys)


def test_the_command_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        command.main(["--help"])
    assert exited.value.code == 0
    assert "conf-server fit TRAIN -o DIR" in capsys.readouterr().out
