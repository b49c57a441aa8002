"""Records what lm-polygraph 0.7.0 says of the embedded model's answers, in attention.json.

Wants lm-polygraph 0.7.0 installed and this checkout on the path, for the wording of `csl`'s prompt:

    PYTHONPATH=. python tests/e2e/recorded/record.py .cache/models/SmolLM2-135M-Instruct

lm-polygraph generates the answers too, in transformers and float32: its off-by-ones are recorded
with its formulas.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_polygraph import estimators
from lm_polygraph.stat_calculators.attention_eliciting_prompt import BaseAttentionPromptCalculator
from lm_polygraph.stat_calculators.attention_forward_pass import AttentionForwardPassCalculator
from lm_polygraph.stat_calculators.entropy import EntropyCalculator
from lm_polygraph.stat_calculators.greedy_probs import GreedyProbsCalculator
from lm_polygraph.utils.model import WhiteboxModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf_server.uncertainty.prompts import eliciting

VERSION = "0.7.0"
NEW_TOKENS = 12
PROMPTS = (
    "The capital of France is",
    "Question: Which planet is the largest one?\nAnswer:",
    "Bread is made of flour, water, salt and yeast. Knead the dough for ten minutes, let it rise "
    "for an hour in a warm place, then bake it until the crust is brown. While it bakes,",
)
ESTIMATORS = {
    "attention_score": estimators.AttentionScore(),
    "attention_score_gen_only": estimators.AttentionScore(gen_only=True),
    "rauq": estimators.RAUQ(instruct=True),
    "rauq_entropy": estimators.RAUQ(instruct=True, use_entropy=True),
    "rauq, alpha 0.2": estimators.RAUQ(),
    "csl": estimators.CSL(),
}


class Unforced(WhiteboxModel):
    """A model that may end its answer at once: lm-polygraph forbids that for two tokens, which
    changes the probabilities of all others.
    """

    def generate(self, **options: Any) -> Any:
        return super().generate(**options | {"min_new_tokens": 0})


class Eliciting(BaseAttentionPromptCalculator):
    """lm-polygraph's calculator for CSL, with our wording of its prompt."""

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return ["attention_weights_eliciting_prompt"], ["greedy_texts"]

    def __init__(self) -> None:
        before, after = eliciting("{q}")
        super().__init__(before, after, "eliciting_prompt", output_attentions=True)


def recorded(model: Any, prompt: str) -> dict[str, Any]:
    """One prompt: lm-polygraph's answer to it, and its numbers for that."""
    stats: dict[str, Any] = {"model": model, "input_texts": [prompt]}
    for calculator in (
        GreedyProbsCalculator(output_attentions=True),
        EntropyCalculator(),
        AttentionForwardPassCalculator(),
        Eliciting(),
    ):
        stats |= calculator(stats, [prompt], model, max_new_tokens=NEW_TOKENS)
    values = {name: float(estimator(stats)[0]) for name, estimator in ESTIMATORS.items()}
    return {
        "prompt": prompt,
        "answer": [int(token) for token in stats["greedy_tokens"][0]],
        "values": values,
    }


def main() -> None:
    assert version("lm-polygraph") == VERSION
    path = sys.argv[1]
    stock = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").float().eval()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = Unforced(stock, tokenizer, path)
    cases = [recorded(model, prompt) for prompt in PROMPTS]
    content = {"lm_polygraph": VERSION, "max_new_tokens": NEW_TOKENS, "cases": cases}
    Path(__file__).with_name("attention.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
