"""Records what luh's own code says of the embedded model's answers, in uhead.json.

Wants lm-polygraph 0.7.0 installed, and on the path this checkout and luh, which is
github.com/IINemo/llm-uncertainty-head at the commit that COMMIT names:

    PYTHONPATH=.:LUH python tests/e2e/recorded/record_uhead.py .cache/models/SmolLM2-135M-Instruct

luh generates the answers, in transformers and float32, and reads and judges them: its off-by-ones
are recorded with its networks. The heads' weights are made up by `tests.uheads`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import torch
from lm_polygraph.utils.model import WhiteboxModel
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.uheads import CONFIGS, RECORDED, made_up

if not hasattr(huggingface_hub, "Repository"):
    huggingface_hub.Repository = None  # luh imports the name for its uploads

from luh.auto_uncertainty_head import AutoUncertaintyHead
from luh.calculator_apply_uq_head import CalculatorApplyUQHead
from luh.calculator_infer_luh import CalculatorInferLuh

COMMIT = "fc213edc26526b446e76e8253f7fe3b964a54be7"
LM_POLYGRAPH = "0.7.0"
NEW_TOKENS = 12
PROMPTS = (
    "The capital of France is",
    "Bread is made of flour, water, salt and yeast. Knead the dough for ten minutes, let it rise "
    "for an hour in a warm place, then bake it until the crust is brown. While it bakes,",
    # Its answer ends with the end token.
    "<|im_start|>user\nIs the sky blue? Answer yes or no.<|im_end|>\n<|im_start|>assistant\n",
)


def made_up_head(name: str, model: Any, folder: Path) -> Any:
    """One of `tests.uheads`, made by luh, saved by luh and loaded by luh."""
    config = OmegaConf.create(CONFIGS[name])
    head = AutoUncertaintyHead.from_config(config, model)
    shapes = {key: list(value.shape) for key, value in head.state_dict().items()}
    weights = made_up(shapes)
    head.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    head.save(folder / name)
    return AutoUncertaintyHead.from_pretrained(str(folder / name), model)


def judged(head: Any, model: Any, prompt: str) -> dict[str, Any]:
    """One answer: its tokens, and the logits that luh's calculators give."""
    of_tokens = head.model_type == "token"
    infer = CalculatorInferLuh(head, predict_token_uncertainties=of_tokens, device="cpu")
    found = infer({}, [prompt], model, max_new_tokens=NEW_TOKENS, min_new_tokens=0)
    if of_tokens:
        logits = found["uncertainty_logits"][0]
    else:
        (logits,) = CalculatorApplyUQHead(head)(found, [prompt], model)["uncertainty_claim_logits"]
    answer = [int(token) for token in found["greedy_tokens"][0]]
    return {"answer": answer, "logits": [float(logit) for logit in logits]}


def main() -> None:
    assert version("lm-polygraph") == LM_POLYGRAPH
    path = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    stock = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").float().eval()
    model = WhiteboxModel(stock, tokenizer, path)
    heads = {}
    # luh's lookback_lens loads a tokenizer that it does not use.
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(AutoTokenizer, "from_pretrained"),
    ):
        for name in CONFIGS:
            head = made_up_head(name, stock, Path(folder))
            heads[name] = {
                "shapes": {key: list(value.shape) for key, value in head.state_dict().items()},
                "of_tokens": head.model_type == "token",
                "cases": [judged(head, model, prompt) for prompt in PROMPTS],
            }
    content = {
        **{"luh": COMMIT, "lm_polygraph": LM_POLYGRAPH, "max_new_tokens": NEW_TOKENS},
        **{"prompts": PROMPTS, "heads": heads},
    }
    RECORDED.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
