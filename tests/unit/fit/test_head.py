"""Training an uncertainty head on collected answers, and loading what was written."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.fit.collected_file import CollectedFile
from conf_server.fit.errors import FitError
from conf_server.fit.head import Example, Examples, trained
from conf_server.fit.passes import head_passes
from conf_server.heads.features import FeatureRow, ModelShape
from conf_server.heads.loading import load_head
from conf_server.heads.luh_config import Extractor, LuhConfig, read_config, usual_config
from conf_server.heads.written import trained_on, write_head
from conf_server.serving.served_head import served_head
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.uncertainty.fitted import ModelIdentity

SHAPE = ModelShape(num_layers=2, num_heads=2, hidden_size=3)
MODEL = ModelIdentity("/models/m", 2, 3, "sha256:weights", None)
PROMPT, ANSWER = 4, 3  # tokens, the answer's end token included
ATTENTION = Extractor("basic_attention", {"layer_nums": "all", "attn_history_sz": 2, "pool": False})
LIKELIEST = Extractor("token_probabilities", {"top_n": 2})
STATES = Extractor("basic_hidden_states", {"layer_nums": [1]})
SMALL = {"head_dim": 8, "n_layers": 1, "n_heads": 2}


def config(head_type: str, *extractors: Extractor, **options: Any) -> LuhConfig:
    return LuhConfig(head_type, options, extractors)


CLAIM = config("claim", ATTENTION, LIKELIEST, **SMALL)
LINEAR = config("linear_claim", STATES)


def coded(numbers: NDArray[Any]) -> dict[str, Any]:
    values = base64.b64encode(numbers.astype("<f4").tobytes()).decode()
    return {"shape": list(numbers.shape), "values": values}


def write_lines(path: Path, results: Sequence[dict[str, Any]], correct: Sequence[Any]) -> None:
    lines = [
        {"line": number, "result": {"data": [result]}, "correct": label}
        for number, (result, label) in enumerate(zip(results, correct, strict=True), 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def examples(folder: Path, of: LuhConfig, correct: Sequence[Any]) -> Examples:
    """Answers whose numbers are random, but for one that tells right from wrong: the likeliest
    token's probability, a weight and a number of the hidden state are larger where they are right.
    """
    rng = np.random.default_rng(0)
    features = FeatureRow(of.extractors, SHAPE)
    states, scores = [], []
    rows = PROMPT + ANSWER - 1
    for label in correct:
        weights, hidden = rng.random((2, rows, 2, 2)), rng.normal(size=(1, rows, 3))
        weights[0, :, 0, 0] = 0.9 if label else 0.1
        hidden[0, :, 0] = 2 if label else -2
        flat = coded(hidden)
        result = {"index": 0, "num_tokens": rows, "shape": flat["shape"], "states": flat["values"]}
        states.append(result | {"attention": {"weights": coded(weights)}})
        best = -0.1 if label else -1.5
        tokens = [{"top_logprobs": [{"logprob": best}, {"logprob": -3.0}]}] * ANSWER
        scores.append({"index": 0, "num_tokens": ANSWER, "tokens": tokens})
    write_lines(folder / "states.jsonl", states, correct)
    write_lines(folder / "scores.jsonl", scores, correct)
    given = CollectedFile(folder / "states.jsonl"), CollectedFile(folder / "scores.jsonl")
    return Examples(features, *given, most=1000)


LABELS = [True, False] * 20


@pytest.mark.parametrize(("of", "epochs"), [(CLAIM, 25), (LINEAR, 150)])
def test_a_head_learns_and_judges_when_it_is_loaded(
    tmp_path: Path, of: LuhConfig, epochs: int
) -> None:
    learned_from = examples(tmp_path, of, LABELS)
    weights, facts = trained(of, learned_from, epochs)
    assert facts["auroc"] > 0.95
    assert (facts["texts"], facts["wrong"]) == (40, 20)
    write_head(tmp_path / "uhead", of, weights, MODEL, facts)
    assert trained_on(tmp_path / "uhead") == MODEL
    read = read_config(tmp_path / "uhead")
    assert (read.head_type, read.extractors) == (of.head_type, of.extractors)
    head = load_head(tmp_path / "uhead", SHAPE, 10**6)
    assert head.name == of.head_type
    right, wrong = (logit(head, learned_from, index) for index in (0, 1))
    assert bool(learned_from.wrong[0]) is False
    assert right < 0 < wrong


def logit(head: Any, learned_from: Examples, index: int) -> float:
    one: Example = learned_from[index]
    return float(head._network(one.features, one.first)[0])


def test_the_same_answers_give_the_same_head(tmp_path: Path) -> None:
    first, second = (trained(CLAIM, examples(tmp_path, CLAIM, LABELS), 2)[0] for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_an_answer_begins_with_the_prompts_last_row(tmp_path: Path) -> None:
    one = examples(tmp_path, CLAIM, LABELS)[0]
    assert (len(one.features), one.first) == (PROMPT + ANSWER - 1, PROMPT - 1)
    likeliest = one.features[:, -2:]
    assert not likeliest[: one.first].any()
    np.testing.assert_allclose(likeliest[one.first :, 0], np.exp(-0.1), rtol=1e-5)


def test_what_has_no_label_is_not_learned_from(tmp_path: Path) -> None:
    assert len(examples(tmp_path, CLAIM, [*LABELS, None])) == len(LABELS)
    with pytest.raises(FitError, match="there are 1 right and 3 wrong answers"):
        examples(tmp_path, CLAIM, [True, False, False, False, None])


def test_passes_ask_for_what_the_features_are_made_of() -> None:
    score, states = head_passes(FeatureRow(CLAIM.extractors, SHAPE))
    assert score.endpoint.path == "/v1/score"
    assert score.endpoint.fields == {"mode": "per_token", "top_logprobs": 2}
    assert states.endpoint.fields == {
        **{"layers": [], "pooling": "none", "tokens": "all"},
        "attention": {"layers": [0, 1], "history": 2, "context_mass": False},
    }
    line = {"prompt": "p", "completion": " a"}
    assert score.endpoint.rewritten(line)["completion"] == {"text": " a", "finished": True}
    assert states.endpoint.rewritten(line) == line


def test_the_usual_head_is_of_luhs_kind() -> None:
    usual = usual_config()
    assert usual.head_type == "claim"
    assert FeatureRow(usual.extractors, SHAPE).width == 2 * 2 * 3 + 4


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    weights, facts = trained(LINEAR, examples(tmp_path, LINEAR, LABELS), epochs=1)
    write_head(tmp_path / "uhead", LINEAR, weights, MODEL, facts)
    settings = ConfidenceSettings(uhead=str(tmp_path / "uhead"), enable_hidden_states=True)
    assert served_head(settings, SHAPE, MODEL) is not None
    other = replace(MODEL, root="/models/other", weights="sha256:others")
    message = "it was trained on the weights of /models/m, not on those of /models/other"
    with pytest.raises(SettingsError, match=message):
        served_head(settings, SHAPE, other)
