"""`conf-server fit` on a real server, and a server that estimates with what was learned."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf_server.fit import command
from conf_server.heads.luh_config import LuhConfig, as_yaml, usual_config
from conf_server.stats.lookback import lookback_ratios
from conf_server.uncertainty.fitted import FITTABLE, Gaussian, LinearProbe, RelativeGaussian
from conf_server.uncertainty.fitted_file import FACTS, load_fitted
from tests.e2e.test_uncertainty import ask, chat_ids
from tests.reference import Reference
from tests.server import KIND_FLAGS, Server

WORDS = ["cat", "dog", "river", "stone", "cloud", "ship", "clock", "garden", "bread", "moon"]
TASKS = ["Name a kind of", "Write a line about a", "Say what you know of the", "Draw a"]
TEXTS = [(f"{task} {word}.", f"A {word} it is.") for task in TASKS for word in WORDS]
QUESTION, ANSWER = "Name a kind of lamp.", "A lamp it is."
SMALL = {"head_dim": 16, "n_layers": 1, "n_heads": 2}
DENSITIES = ["mahalanobis_distance", "mahalanobis_distance_answer", "rde", "rde_answer"]


def line(number: int, question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "completion": answer, "correct": number % 2 == 0}


@pytest.fixture(scope="session")
def folder(vllm_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of all methods on 40 answers. Made with one server, it is of use to every other one."""
    folder = tmp_path_factory.mktemp("fit")
    train, background = folder / "train.jsonl", folder / "background.jsonl"
    lines = [line(number, *text) for number, text in enumerate(TEXTS)]
    train.write_text("".join(json.dumps(one) + "\n" for one in lines))
    background.write_text("".join(json.dumps(one) + "\n" for one in lines[::2]))
    words = [str(train), "-o", str(folder / "fitted"), "--background", str(background)]
    head = folder / "head.yaml"
    head.write_text(as_yaml(LuhConfig("claim", SMALL, usual_config().extractors)))
    words += ["--methods", ",".join((*FITTABLE, "uhead")), "--rde-components", "8"]
    words += ["--head-config", str(head)]
    words += ["--url", vllm_server.url, "--api-key", vllm_server.api_key]
    assert command.main(words) == 0
    return folder / "fitted"


@pytest.fixture(scope="module")
def fitted(
    server: Server, model_path: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ["--max-model-len=512", "--enable-hidden-states", f"--fitted={folder}"]
    flags.append(f"--uhead={folder / 'uhead'}")
    log = tmp_path_factory.mktemp("fitted-server") / "log"
    with Server(model_path, flags, log, kind=server.kind) as fitted:
        yield fitted


def test_every_method_is_there_and_says_what_it_was_fitted_on(fitted: Server) -> None:
    with fitted.http() as http:
        listed = http.get("/v1/uncertainty/methods").json()["data"]
    found = {method["name"]: method["fit"] for method in listed if method["name"] in FITTABLE}
    assert all(method["available"] for method in listed if method["name"] in FITTABLE)
    for name, fit in found.items():
        pooled, learner = FITTABLE[name]
        layer = (15 if learner.is_probe else 30) if pooled.has_layer else None
        assert fit == {"layer": layer, "pooling": pooled, "texts": 40}


def test_estimates_are_what_transformers_states_give(
    fitted: Server, folder: Path, reference: Reference
) -> None:
    answer = ask(
        fitted,
        messages=[{"role": "user", "content": QUESTION}],
        answer=ANSWER,
        uncertainty={"methods": list(FITTABLE)},
    )
    values = {name: estimate["value"] for name, estimate in answer["estimates"].items()}
    assert set(values) == set(FITTABLE)
    context = chat_ids(reference, QUESTION)
    ids = [*context, *reference.tokenizer.encode(ANSWER, add_special_tokens=False)]
    last = reference.hidden_states(ids, [30], 0)[0].astype(np.float64)
    methods = load_fitted(folder).methods
    for name, state in (
        ("mahalanobis_distance", last.mean(axis=0)),
        ("mahalanobis_distance_answer", last[len(context) :].mean(axis=0)),
    ):
        learned = methods[name].learned
        assert isinstance(learned, Gaussian)
        assert values[name] == pytest.approx(distance(learned, state), rel=1e-4)
    relative = methods["relative_mahalanobis_distance"].learned
    assert isinstance(relative, RelativeGaussian)
    state = last.mean(axis=0)
    expected = distance(relative.own, state) - distance(relative.background, state)
    assert values["relative_mahalanobis_distance"] == pytest.approx(expected, rel=1e-3)
    looking_back = methods["lookback_lens"].learned
    assert isinstance(looking_back, LinearProbe)
    attention = reference.attention(ids, range(30))[:, :, len(context) :]
    mass = attention[..., : len(context)].sum(-1).transpose(0, 2, 1)
    logit = lookback_ratios(mass, len(context)).flatten() @ looking_back.weight + looking_back.bias
    # Heads that look back alike in all texts have large weights, which rounding shows.
    assert values["lookback_lens"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-2)
    assert 0 <= values["linear_probe"] <= 1
    assert 0 <= values["ppl_md"] <= 1


def distance(gaussian: Gaussian, state: Any) -> float:
    covariance = gaussian.factor @ gaussian.factor.T
    centred = state - gaussian.mean
    return float(np.sqrt(centred @ np.linalg.solve(covariance, centred)))


def test_a_head_that_was_trained_here_judges_here(fitted: Server) -> None:
    answer = ask(
        fitted,
        messages=[{"role": "user", "content": QUESTION}],
        answer=ANSWER,
        uncertainty={"methods": ["uhead"]},
    )
    assert 0 < answer["estimates"]["uhead"]["value"] < 1


def test_what_is_far_from_the_texts_is_told(fitted: Server) -> None:
    def estimated(question: str, answer: str) -> dict[str, float]:
        messages = [{"role": "user", "content": question}]
        body = ask(fitted, messages=messages, answer=answer, uncertainty={"methods": DENSITIES})
        return {name: estimate["value"] for name, estimate in body["estimates"].items()}

    near = estimated(QUESTION, ANSWER)
    far = estimated("def f(x):\n    return [y**2 for y in x]", "print(f(range(10)))")
    for name in DENSITIES:
        assert near[name] < far[name], name


def test_the_embedding_is_lm_polygraphs(server: Server) -> None:
    """What was recorded of the embedded model: prompt and answer, but for its last token."""
    path = Path(__file__).parents[1] / "unit/uncertainty/vectors/density.json"
    vectors = json.loads(path.read_text())
    ids, every = vectors["token_ids"][:-1], vectors["every"]
    body = {"prompt": ids, "encoding_format": "float"}
    response = server.post("/v1/hidden_states", body)
    (((state,),),) = (result["states"] for result in response.json()["data"])
    found, right = np.array(state[::every]), np.array(vectors["states"]["eval"][0])
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * np.abs(right).max())


def test_states_compare_texts_without_another_model(server: Server) -> None:
    answer = ask(
        server,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        answer="It is Paris.",
        samples=["It is Paris.", "Paris is the capital.", "for (i = 0; i < n; i++)"],
        uncertainty={"methods": ["deg_mat", "semantic_entropy"], "similarity": "hidden_states"},
    )
    assert answer["similarity"] == "hidden_states"
    assert 0 < answer["estimates"]["deg_mat"]["value"] < 1


@pytest.mark.parametrize("what", ["weights", "hidden_size", "flag"])
def test_a_fit_that_is_of_no_use_is_refused_in_one_line(
    server: Server, model_path: Path, folder: Path, tmp_path: Path, what: str
) -> None:
    for path in filter(Path.is_file, folder.iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    facts = json.loads((tmp_path / FACTS).read_text())
    facts["model"]["weights"] = "sha256:others"
    if what == "hidden_size":
        facts["model"]["hidden_size"] = 64
    (tmp_path / FACTS).write_text(json.dumps(facts))
    flags = ["--enable-hidden-states"] if what != "flag" else []
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "conf_server", f"--model={model_path}", *flags),
            *(f"--fitted={tmp_path}", "--max-model-len=512", *KIND_FLAGS[server.kind]),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 2
    reason = {
        "weights": "it was fitted on the weights of",
        "hidden_size": "fitted on 576 numbers, the model has 64",
        "flag": "it is of no use without --enable-hidden-states",
    }[what]
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("conf-server: error: --fitted")
    assert reason in last
    assert "Traceback" not in ran.stderr
