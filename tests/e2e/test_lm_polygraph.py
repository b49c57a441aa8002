"""lm-polygraph's statistics from a served model, and its benchmark script where it is installed.

What is compared with was recorded by recorded/record_polygraph.py, from transformers in float32.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from conf_server.client import Client
from conf_server.integrations.polygraph_generation import (
    Decoding,
    continuation_logprobs,
    forced_log_likelihoods,
    generated,
)
from tests.e2e.recorded.polygraph_table import PAGE, RECORDED, Row, table
from tests.server import Server

ROOT = Path(__file__).parents[2]
CONTENT = json.loads(RECORDED.read_text())
CASES = CONTENT["cases"]
CLOSE = 1e-3
P_TRUE = (
    "Question: {}\n Possible answer:{}\n "
    "Is the possible answer:\n (A) True\n (B) False\n The possible answer is:"
)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, api_key=server.api_key) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture
def prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(case["prompt"])["input_ids"] for case in CASES]


def test_answers_and_their_statistics_are_those_of_lm_polygraph(
    client: Client, prompts: list[list[int]], tokenizer: Any
) -> None:
    decoding = Decoding(max_new_tokens=CONTENT["max_new_tokens"], min_new_tokens=2)
    ends = (tokenizer.eos_token_id,)
    found = generated(client, prompts, decoding, candidates=10, end_ids=ends)
    for (answer,), case in zip(found, CASES, strict=True):
        assert list(answer.tokens) == case["tokens"]
        assert answer.log_likelihoods == pytest.approx(case["log_likelihoods"], abs=CLOSE)
        assert answer.entropies == pytest.approx(case["entropies"], abs=CLOSE)
        estimates = {
            "MeanTokenEntropy": np.mean(answer.entropies),
            "Perplexity": -np.mean(answer.log_likelihoods),
            "MaximumSequenceProbability": -np.sum(answer.log_likelihoods),
        }
        for name, value in estimates.items():
            assert value == pytest.approx(case["estimates"][name], abs=CLOSE)
        assert {len(row) for row in answer.candidates} == {10}


def test_samples_have_the_log_probabilities_of_lm_polygraph(
    client: Client, prompts: list[list[int]]
) -> None:
    samples = [case["samples"] for case in CASES]
    given = [prompt for prompt, row in zip(prompts, samples, strict=True) for _ in row]
    found = forced_log_likelihoods(client, given, [one for row in samples for one in row])
    wanted = [one for case in CASES for one in case["sample_log_likelihoods"]]
    for here, there in zip(found, wanted, strict=True):
        # The first two of theirs are of distributions without the end token.
        assert here[2:] == pytest.approx(there[2:], abs=CLOSE)


def test_p_true_is_that_of_lm_polygraph(client: Client, tokenizer: Any) -> None:
    end, true = tokenizer.eos_token_id, tokenizer("True")["input_ids"][0]
    texts = [
        P_TRUE.format(
            case["prompt"], tokenizer.decode([one for one in case["tokens"] if one != end])
        )
        for case in CASES
    ]
    asked = [tokenizer(text)["input_ids"] for text in texts]
    found = continuation_logprobs(client, asked, [true] * len(asked), [end])
    wanted = [-case["estimates"]["PTrue"] for case in CASES]
    assert found == pytest.approx(wanted, abs=CLOSE)


def test_the_page_shows_what_was_recorded() -> None:
    assert table([Row(**row) for row in CONTENT["estimators"]]) in PAGE.read_text()


@pytest.fixture
def installed() -> None:
    pytest.importorskip("lm_polygraph", reason="lm-polygraph is not installed")


def block(language: str, containing: str) -> str:
    """A block of code in docs/lm-polygraph.md."""
    blocks = PAGE.read_text().split(f"```{language}\n")[1:]
    (found,) = [text for text in (one.split("```")[0] for one in blocks) if containing in text]
    return found


@pytest.mark.usefixtures("installed")
def test_lm_polygraphs_script_runs_a_benchmark(
    server: Server, model_path: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load(block("yaml", "stat_calculators"))
    config["model"]["path"] = str(model_path.resolve())
    config["model"]["load_model_args"] = {"base_url": server.url, "api_key": server.api_key}
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "served.py").write_text(block("python", "import load_model"))
    with (tmp_path / "questions.csv").open("w") as file:
        rows = [{"question": case["prompt"], "answer": "Paris"} for case in CASES]
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    files = distribution("lm-polygraph").files or ()
    (script,) = {
        file.name: file.locate() for file in files if file.name == "polygraph_eval"
    }.values()
    if not Path(script).exists():  # of `pip install --target`
        script = Path(str(distribution("lm-polygraph").locate_file("bin"))) / "polygraph_eval"
    environ = {
        **os.environ,
        "HYDRA_CONFIG": str(tmp_path / "benchmark.yaml"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "output" / "ue_manager_seed1", weights_only=False)
    estimates = {name: values for (_, name), values in found["estimations"].items()}
    assert len(estimates) == len(config["estimators"])
    for name in ("MeanTokenEntropy", "Perplexity", "MaximumSequenceProbability", "PTrue"):
        wanted = [case["estimates"][name] for case in CASES]
        assert estimates[name] == pytest.approx(wanted, abs=CLOSE)
    assert all(len(values) == len(CASES) for values in estimates.values())
    assert found["metrics"]


@pytest.mark.usefixtures("installed")
def test_the_python_of_the_page_runs(server: Server, model_path: Path) -> None:
    code = block("python", "UEManager(")
    code = code.replace('"/models/SmolLM2-135M-Instruct"', repr(str(model_path)))
    code = code.replace('"http://localhost:8000"', f"{server.url!r}, api_key={server.api_key!r}")
    names: dict[str, Any] = {}
    exec(code, names)
    estimations = names["manager"].estimations
    assert {name for _, name in estimations} == {
        *("MeanTokenEntropy", "MonteCarloSequenceEntropy", "PTrue")
    }


@pytest.mark.usefixtures("installed")
def test_the_configuration_of_the_page_names_all_calculators() -> None:
    from conf_server.integrations.lm_polygraph import served_stat_calculators

    config = yaml.safe_load(block("yaml", "stat_calculators"))["stat_calculators"][1:]
    assert [(one["name"], one["builder"], one["stats"], one["dependencies"]) for one in config] == [
        (one.name, one.builder, one.stats, one.dependencies) for one in served_stat_calculators()
    ]
