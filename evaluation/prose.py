"""Prose that is on every machine: paragraphs from the descriptions of installed packages.

    python -m evaluation.prose > prose.jsonl

writes those to fit on as lines for `conf-server fit --background`, each cut in two halves, since
some methods read what stands after a prompt.
"""

from __future__ import annotations

import json
import random
import re
from importlib.metadata import distributions
from typing import Final

SEED: Final = 20261126
MOST_TRAINING, TEST = 600, 200
MOST_CHARACTERS: Final = 600


def prose() -> tuple[list[str], list[str]]:
    """Paragraphs to fit on, and paragraphs of other packages to be told from something else."""
    found: dict[str, list[str]] = {}
    for distribution in distributions():
        text = str(distribution.metadata.get_payload() or distribution.metadata["Description"])
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        found[str(distribution.metadata["Name"])] = [*filter(_is_prose, paragraphs)]
    return _split(found)


def _is_prose(text: str) -> bool:
    """Whole sentences, without markup or tables."""
    letters = sum(character.isalpha() or character in " ,.'" for character in text)
    return (
        100 <= len(text) <= MOST_CHARACTERS
        and letters > 0.93 * len(text)
        and text[0].isupper()
        and text.endswith(".")
    )


def _split(found: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    names = sorted(found)
    random.Random(SEED).shuffle(names)
    test: list[str] = []
    while len(test) < TEST:
        test += found[names.pop()]
    train = [text for name in names for text in found[name] if text not in test]
    return list(dict.fromkeys(train))[:MOST_TRAINING], test[:TEST]


def main() -> None:
    for paragraph in prose()[0]:
        words = paragraph.split()
        half = len(words) // 2
        line = {"prompt": " ".join(words[:half]), "completion": " " + " ".join(words[half:])}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
