"""The embedded model with the two tokens that a reasoning parser looks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

THINK: Final = 4
END_THINK: Final = 5
_NAMES: Final = {THINK: "<think>", END_THINK: "</think>"}
"""By id; they stand where tokens of code repositories were, which no answer here has."""


def write_thinker(model: Path, folder: Path) -> Path:
    """Write a copy of `model`, whose tokens of these ids have other names; returns it."""
    for file in model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if (name := _NAMES.get(token["id"])) is not None:
            tokenizer["model"]["vocab"][name] = tokenizer["model"]["vocab"].pop(token["content"])
            token |= {"content": name, "special": False}
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
