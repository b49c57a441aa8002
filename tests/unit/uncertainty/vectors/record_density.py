"""Records lm-polygraph 0.7.0's density methods on the embedded model in density.json.

Wants lm-polygraph 0.7.0 installed, the embedded model, and nothing of conf_server:

    python tests/unit/uncertainty/vectors/record_density.py .cache/models/SmolLM2-135M-Instruct

The model generates after short prompts, and lm-polygraph makes an embedding of each prompt and its
answer. Of the 576 numbers of one every 16th is kept, so that there are more texts than numbers.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_polygraph import estimators
from lm_polygraph.stat_calculators.embeddings import get_embeddings_from_output
from lm_polygraph.utils.model import WhiteboxModel
from transformers import AutoModelForCausalLM, AutoTokenizer

VERSION = "0.7.0"
EVERY = 16
NEW_TOKENS = 6

WHO = [
    "teacher",
    "nurse",
    "farmer",
    "pilot",
    "baker",
    "lawyer",
    "sailor",
    "painter",
    "doctor",
    "miner",
    "judge",
    "singer",
]
WHAT = ["found", "sold", "lost", "broke", "painted", "wanted", "hid", "cleaned", "bought", "washed"]
WHICH = ("old clock", "red boat")
PLACES = [
    "France",
    "Kenya",
    "Japan",
    "Peru",
    "Egypt",
    "Norway",
    "Chile",
    "India",
    "Italy",
    "Cuba",
    "Ghana",
    "Nepal",
]
ASKED = [
    "capital",
    "river",
    "king",
    "flag",
    "food",
    "language",
    "coast",
    "history",
    "music",
    "weather",
]
TRAIN = [f"The {who} {what} the {which} and" for who in WHO for what in WHAT for which in WHICH]
BACKGROUND = [f"About the {asked} of {place}:" for place in PLACES for asked in ASKED]
EVAL = [
    "The teacher sold the red boat and",
    "The king painted the old clock and",
    "About the music of Japan:",
    "def main(argv):\n    return",
    "1 + 1 = 2, 2 + 2 = 4, 3 + 3 =",
    "Der Müller hat die Uhr verloren und",
]


def embedded(model: WhiteboxModel, text: str) -> tuple[list[int], Any, Any]:
    """Token ids of prompt and answer, its log-probabilities, and lm-polygraph's embedding."""
    batch = model.tokenize([text])
    with torch.no_grad():
        out = model.model.generate(
            **batch,
            output_logits=True,
            return_dict_in_generate=True,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=2,
            do_sample=False,
            output_hidden_states=True,
        )
    _, embedding = get_embeddings_from_output(out, batch, model.model_type)
    answer = out.sequences[0, batch["input_ids"].shape[1] :]
    rows = torch.stack([logits[0].log_softmax(-1) for logits in out.logits])
    logprobs = rows.gather(1, answer[:, None])[:, 0]
    return out.sequences[0].tolist(), logprobs.double().numpy(), embedding[0].double().numpy()


def main(path: str) -> None:
    if version("lm-polygraph") != VERSION:
        raise SystemExit(f"wants lm-polygraph {VERSION}, found {version('lm-polygraph')}")
    warnings.simplefilter("ignore")
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model = WhiteboxModel(loaded, AutoTokenizer.from_pretrained(path))
    made = {
        name: [embedded(model, text) for text in texts]
        for name, texts in (("train", TRAIN), ("background", BACKGROUND), ("eval", EVAL))
    }
    states = {
        name: np.round(np.stack([vector[::EVERY] for _, _, vector in texts]), 4)
        for name, texts in made.items()
    }
    logprobs = {
        name: [np.round(values, 5) for _, values, _ in texts] for name, texts in made.items()
    }
    stats = {
        "embeddings_decoder": states["eval"],
        "train_embeddings_decoder": states["train"],
        "background_train_embeddings_decoder": states["background"],
        "greedy_log_likelihoods": logprobs["eval"],
        "train_greedy_log_likelihoods": logprobs["train"],
    }
    ranked = estimators.PPLMDSeq("decoder", "MD")
    found = {
        "mahalanobis_distance": estimators.MahalanobisDistanceSeq("decoder")(stats),
        "relative_mahalanobis_distance": estimators.RelativeMahalanobisDistanceSeq("decoder")(
            stats
        ),
        "rde": estimators.RDESeq("decoder")(stats),
        "ppl_md": ranked(stats),
    }
    whole = {
        "version": VERSION,
        "every": EVERY,
        "states": {name: rows.tolist() for name, rows in states.items()},
        "logprobs": [values.tolist() for values in logprobs["eval"]],
        "negative_mean_logprobs": np.asarray(ranked.train_ppl, float).tolist(),
        "held_out_distances": ranked.train_md.astype(float).tolist(),
        "values": {name: np.asarray(values, float).tolist() for name, values in found.items()},
        "token_ids": made["eval"][0][0],
        "num_context": len(made["eval"][0][0]) - len(made["eval"][0][1]),
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in whole.items())
    Path(__file__).with_name("density.json").write_text(f"{{{lines}}}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
