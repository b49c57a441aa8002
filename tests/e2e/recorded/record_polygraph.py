"""Runs lm-polygraph's estimators on a served model and on transformers, and records both.

Wants lm-polygraph 0.7.0 and what it needs installed, this checkout on the path, and a server of
the same model in float32 with `--max-logprobs -1`:

    PYTHONPATH=. python tests/e2e/recorded/record_polygraph.py .cache/models/SmolLM2-135M-Instruct \
        .cache/models/all-MiniLM-L6-v2 http://localhost:8000

Writes polygraph.json beside itself, and the table of docs/lm-polygraph.md.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lm_polygraph import WhiteboxModel, estimators
from lm_polygraph.estimators.estimator import Estimator
from lm_polygraph.stat_calculators import StatCalculator
from lm_polygraph.stat_calculators.extract_claims import Claim
from lm_polygraph.utils.builder_enviroment_stat_calculator import BuilderEnvironmentStatCalculator
from lm_polygraph.utils.dataset import Dataset
from lm_polygraph.utils.factory_stat_calculator import StatCalculatorContainer
from lm_polygraph.utils.manager import UEManager, order_calculators
from transformers import AutoModelForCausalLM, set_seed

from conf_server.integrations.lm_polygraph import load_tokenizer, stat_calculators, whitebox_model
from tests.e2e.recorded.polygraph_table import RECORDED, Row, write_table
from tests.e2e.recorded.stand_ins import write_cross_encoder, write_nli_model

VERSION: Final = "0.7.0"
NEW_TOKENS: Final = 12
SAMPLES: Final = 4
PROMPTS: Final = (
    "The capital of France is",
    "Question: Which planet is the largest one?\nAnswer:",
    "2 + 2 =",
    "Say yes or no: is water wet?\nAnswer: Yes",
    "Bread is made of flour, water, salt and",
    "Question: Who wrote Hamlet?\nAnswer:",
)
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "Verbalized2S": {"confidence_prompt": "How sure are you?", "confidence_regex": r"(\d)"},
    "Verbalized1S": {"confidence_regex": r"(\d)"},
    "Linguistic1S": {"expressions": {"answer": 0.5}},
    "ClaimConditionedProbabilityClaim": {"is_stopword": lambda token: token == "the"},
}
"""What a constructor has to be told."""
REASONS: Final = {
    "AttentionForwardPassCalculator": "attention weights",
    "AttentionElicitingPromptCalculator": "attention weights",
    "attention_all": "attention weights",
    "embeddings": "hidden states",
    "SamplingGenerationCalculator": "hidden states",
    "EnsembleTokenLevelDataCalculator": "an ensemble of models that run in the process",
    "train_embeddings": "hidden states, and those of a training set",
    "train_greedy_log_likelihoods": "hidden states, and those of a training set",
    "background_train_embeddings": "hidden states, and those of a training set",
}
"""What an estimator wants that we do not give, by statistic or by lm-polygraph's calculator."""
UNBUILT: Final = {
    "AttentionScoreClaim": "attention weights",
    "Focus": "attention weights",
    "FocusClaim": "attention weights",
    "SemanticEntropyToken": "classes of all tokens, which it makes with a sentence model: "
    "not tried",
}
FAILS: Final = "answers of one length, or one at a time: it fails in others on transformers too"
DRAWS: Final = ("PTrueEmpirical", "RandomBaselineClaim")
"""Estimators that draw at random themselves: two runs have two values."""


class GivenSamples(StatCalculator):
    """The samples that the served model has drawn, with transformers' log-probabilities."""

    names = ("log_probs", "tokens", "texts", "log_likelihoods")
    tokens: list[list[list[int]]]
    ended: list[list[bool]]

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return [f"sample_{name}" for name in GivenSamples.names], []

    def __call__(self, dependencies: Any, texts: Any, model: Any, *_: Any) -> dict[str, Any]:
        end = model.tokenizer.eos_token_id
        logprobs, sums = [], []
        for text, row, ended in zip(texts, self.tokens, self.ended, strict=True):
            prompt = model.tokenize([text])["input_ids"][0].tolist()
            found = [
                unforced(model, prompt, [*one, *[end] * is_over])
                for one, is_over in zip(row, ended, strict=True)
            ]
            sums.append([sum(one) for one in found])
            logprobs.append([one[: len(tokens)] for one, tokens in zip(found, row, strict=True)])
        decoded = [[model.tokenizer.decode(one) for one in row] for row in self.tokens]
        values = (sums, self.tokens, decoded, logprobs)
        return {f"sample_{name}": value for name, value in zip(self.names, values, strict=True)}


def unforced(model: Any, prompt: list[int], answer: list[int]) -> list[float]:
    """Log-probabilities of an answer's tokens, of which the first two may not be its end."""
    with torch.no_grad():
        logits = model.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    logits[:2, model.tokenizer.eos_token_id] = -torch.inf
    return logits.log_softmax(-1).gather(1, torch.tensor([answer]).T)[:, 0].tolist()


class OwnPosition(StatCalculator):
    """log p(y_t | y_<t) by transformers, as GreedyLMProbsCalculator documents it."""

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return ["greedy_lm_log_likelihoods"], ["greedy_tokens"]

    def __call__(self, dependencies: Any, texts: Any, model: Any, *_: Any) -> dict[str, Any]:
        found = []
        for answer in dependencies["greedy_tokens"]:
            with torch.no_grad():
                logprobs = model.model(torch.tensor([answer])).logits[0].log_softmax(-1)
            own = logprobs[:-1].gather(1, torch.tensor([answer[1:]]).T)[:, 0].tolist()
            found.append([math.nan, *own])
        return {"greedy_lm_log_likelihoods": found}


class TwoClaims(StatCalculator):
    """Halves of an answer, in place of the claims that an OpenAI model would find in it."""

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        names = ["claims", "claim_texts_concatenated", "claim_input_texts_concatenated"]
        return names, ["greedy_tokens"]

    def __call__(self, dependencies: Any, texts: Any, model: Any, *_: Any) -> dict[str, Any]:
        claims = []
        for tokens in dependencies["greedy_tokens"]:
            positions = list(range(len(tokens) - 1))
            halves = (positions[: len(positions) // 2], positions[len(positions) // 2 :])
            words = [model.tokenizer.decode([tokens[n] for n in half]) for half in halves]
            claims.append([Claim(*pair) for pair in zip(words, words, halves, strict=True)])
        return {
            "claims": claims,
            "claim_texts_concatenated": [one.claim_text for row in claims for one in row],
            "claim_input_texts_concatenated": [
                text for text, row in zip(texts, claims, strict=True) for _ in row
            ],
        }


def load_stat_calculator(config: Any, environment: Any) -> StatCalculator:
    """What lm-polygraph calls to make the calculators of this script."""
    return {one.__name__: one for one in (GivenSamples, OwnPosition, TwoClaims)}[config["name"]]()


def container(calculator: type[StatCalculator]) -> StatCalculatorContainer:
    names, needs = calculator.meta_info()
    config = {"name": calculator.__name__}
    return StatCalculatorContainer(
        calculator.__name__, names, needs, calculator, "__main__", config
    )


def with_stand_ins(
    containers: list[StatCalculatorContainer], nli: Path, cross_encoder: Path
) -> list[StatCalculatorContainer]:
    """The calculators that compare texts, with models of random weights."""
    for one in containers:
        if "nli_model" in one.cfg:
            one.cfg.nli_model.deberta_path = str(nli)
        if "cross_encoder_name" in one.cfg:
            one.cfg.cross_encoder_name = str(cross_encoder)
    return containers


def all_estimators() -> dict[str, type[Estimator]]:
    found = {
        name: value
        for name, value in vars(estimators).items()
        if inspect.isclass(value) and issubclass(value, Estimator) and value is not Estimator
    }
    return dict(sorted(found.items()))


def calculators_of(
    estimator: Estimator, containers: list[StatCalculatorContainer]
) -> dict[str, StatCalculatorContainer | None]:
    """The calculators that an estimator needs, by statistic; None where there is none."""
    makers = {stat: one for one in containers for stat in one.stats}
    needs = {stat: one.dependencies for stat, one in makers.items()}
    known = [stat for stat in estimator.stats_dependencies if stat in makers]
    ordered, _ = order_calculators(known, makers, needs)
    unknown = dict.fromkeys(set(estimator.stats_dependencies) - set(known))
    return {**unknown, **{stat: makers[stat] for stat in ordered}}


def missing(found: dict[str, StatCalculatorContainer | None]) -> str | None:
    """What keeps an estimator from being served; None where nothing does."""
    for stat, maker in found.items():
        for name in (stat, "" if maker is None else maker.name):
            if name in REASONS:
                return REASONS[name]
    return None


def noted(found: dict[str, StatCalculatorContainer | None]) -> str:
    """What else an estimator needs."""
    notes = {
        "the whole vocabulary": lambda one: "greedy_log_probs" in one.stats,
        "an NLI model": lambda one: "nli_model" in one.cfg,
        "a cross-encoder": lambda one: "cross_encoder_name" in one.cfg,
        "claims": lambda one: "claims" in one.stats,
    }
    makers = [one for one in found.values() if one is not None]
    return ", ".join(note for note, is_it in notes.items() if any(map(is_it, makers)))


def largest_gap(here: list[float], there: list[float]) -> float:
    assert np.array_equal(np.isnan(here), np.isnan(there))
    return float(np.nanmax(np.abs(np.subtract(here, there))))


def run(model: Any, chosen: list[Estimator], containers: list[Any], instruct: bool) -> UEManager:
    """A benchmark of lm-polygraph's on these prompts."""
    set_seed(1)
    model.instruct = instruct
    texts = list(PROMPTS)
    manager = UEManager(
        data=Dataset(texts, texts, len(texts)),
        model=model,
        estimators=chosen,
        builder_env_stat_calc=BuilderEnvironmentStatCalculator(model),
        available_stat_calculators=containers,
        generation_metrics=[],
        ue_metrics=[],
        processors=[],
        ignore_exceptions=True,
        verbose=False,
        max_new_tokens=NEW_TOKENS,
        save_stats=[f"sample_{name}" for name in GivenSamples.names]
        + ["entropy", "greedy_log_likelihoods", "input_tokens"],
    )
    manager()
    return manager


def values_of(manager: UEManager, estimator: Estimator) -> list[float]:
    found = manager.estimations[estimator.level, str(estimator)]
    return np.hstack([np.asarray(one, float) for one in found]).tolist()


def main() -> None:
    assert version("lm-polygraph") == VERSION
    path, words, url = sys.argv[1:]
    served = whitebox_model(path, url)
    stock = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    own = WhiteboxModel(stock, load_tokenizer(path), path)
    folder = Path(tempfile.mkdtemp())
    stand_ins = write_nli_model(folder / "nli", words), write_cross_encoder(folder / "ce", words)
    sampling = {"ServedSamplingCalculator": {"samples_n": SAMPLES}}
    options = {"output_attentions": False, "output_hidden_states": False}
    ours = [*stat_calculators(sampling, **options), container(TwoClaims)]
    ours = with_stand_ins(ours, *stand_ins)
    # Those of lm-polygraph, without ours, and with the samples of ours.
    theirs = [one for one in ours if one.builder != "conf_server.integrations.lm_polygraph"]
    theirs += [container(GivenSamples), container(OwnPosition)]

    rows, chosen, instructed, notes = [], [], [], {}
    for name, kind in all_estimators().items():
        if name in UNBUILT or name[:3] in ("EPT", "PET", "EPS", "PES"):
            rows.append(Row(name, UNBUILT.get(name, REASONS["EnsembleTokenLevelDataCalculator"])))
            continue
        estimator = kind(**OPTIONS.get(name, {}))
        found = calculators_of(estimator, ours)
        notes[name] = noted(found)
        if reason := missing(found):
            rows.append(Row(name, reason))
        else:
            (instructed if name == "Verbalized2S" else chosen).append((name, estimator))

    parts = []
    for group, instruct in ((chosen, False), (instructed, True)):
        here = run(served, [one for _, one in group], ours, instruct)
        samples = here.stats["sample_tokens"]
        GivenSamples.tokens = samples
        GivenSamples.ended = [
            [abs(total - sum(row)) > 1e-9 for total, row in zip(totals, found, strict=True)]
            for totals, found in zip(
                here.stats["sample_log_probs"], here.stats["sample_log_likelihoods"], strict=True
            )
        ]
        there = run(own, [one for _, one in group], theirs, instruct)
        assert here.stats["greedy_tokens"] == there.stats["greedy_tokens"]
        parts.append((here, there))
        for name, estimator in group:
            key = (estimator.level, str(estimator))
            assert (key in here.estimations) == (key in there.estimations), name
            if key not in here.estimations:
                rows.append(Row(name, FAILS))
                continue
            values = values_of(here, estimator), values_of(there, estimator)
            gap = None if name in DRAWS else largest_gap(*values)
            rows.append(Row(name, None, notes[name], gap))
    write_table(sorted(rows, key=lambda row: row.name))

    here, there = parts[0]
    plain = [
        str(one) for _, one in chosen if one.level == "sequence" and one.stats_dependencies in PLAIN
    ]
    cases = [
        {
            "prompt": prompt,
            "tokens": there.stats["greedy_tokens"][n],
            "log_likelihoods": [float(one) for one in there.stats["greedy_log_likelihoods"][n]],
            "entropies": [float(one) for one in there.stats["entropy"][n]],
            "samples": here.stats["sample_tokens"][n],
            "sample_log_likelihoods": there.stats["sample_log_likelihoods"][n],
            "estimates": {name: there.estimations["sequence", name][n] for name in plain},
        }
        for n, prompt in enumerate(PROMPTS)
    ]
    content = {"lm_polygraph": VERSION, "max_new_tokens": NEW_TOKENS, "cases": cases}
    content["estimators"] = [vars(row) for row in sorted(rows, key=lambda row: row.name)]
    RECORDED.write_text(json.dumps(content, indent=1) + "\n")


PLAIN: Final = (["entropy"], ["greedy_log_likelihoods"], ["p_true"], ["greedy_log_probs"])
"""Statistics of estimators whose values can be held without lm-polygraph."""

if __name__ == "__main__":
    main()
