"""Documents for lm-eval that need no download: sums, and what follows what."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from datasets import Dataset

SEED = 20261126
ORDERED = {
    "day of the week": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "planet, seen from the sun,": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
    "month": "January February March April May June July August September October November",
    "letter": " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}
ENDS = ("", ".", ", and nothing else.", ", as every child knows.")
PEOPLE = ("The miller", "A young sailor", "My aunt", "The old judge", "Nobody", "The baker's son")
DEEDS = ("found a letter", "sold two horses", "sang all night", "missed the train", "kept bees")
PLACES = ("in the village", "near the harbour", "behind the church", "at the end of the road")


def questions(sentences: int = 0, seed: str = "", **_: object) -> dict[str, Dataset]:
    """100 different questions with four choices each, and 10 to show before them.

    Args:
        sentences: how many stand before each question.
        seed: each gives other questions.
        _: lm-eval gives the model's arguments to all functions of a task.
    """
    drawn = _questions(random.Random(f"{SEED}{seed}"), sentences)
    splits = {"shown": 10, "asked": 100}
    return {name: Dataset.from_list([*islice(drawn, size)]) for name, size in splits.items()}


def texts(**_: object) -> dict[str, Dataset]:
    """10 texts of 10 to 500 tokens, and an empty one."""
    draw = random.Random(SEED)
    lengths = [0, 1, 2, 5, 8, 13, 21, 30, 40, 45, 50]
    return {"read": Dataset.from_list([{"text": _prose(draw, length)} for length in lengths])}


def _questions(draw: random.Random, sentences: int) -> Iterator[dict[str, Any]]:
    seen = set[str]()
    while True:
        question, choices = _sum(draw) if draw.random() < 0.8 else _successor(draw)
        if question in seen:
            continue
        seen.add(question)
        right, end = choices[0], draw.choice(ENDS)
        draw.shuffle(choices)
        yield {
            "question": f"{_prose(draw, sentences)} {question}".strip(),
            "choices": [choice + end for choice in choices],
            "label": choices.index(right),
        }


def _sum(draw: random.Random) -> tuple[str, list[str]]:
    a, b = draw.randint(1, 99), draw.randint(1, 99)
    wrong = draw.sample([n for n in range(a + b - 12, a + b + 13) if n != a + b], 3)
    return f"What is {a} plus {b}?", [str(a + b), *map(str, wrong)]


def _successor(draw: random.Random) -> tuple[str, list[str]]:
    kind = draw.choice([*ORDERED])
    names = ORDERED[kind].split()
    place = draw.randrange(len(names) - 1)
    wrong = draw.sample([name for name in names if name not in names[place : place + 2]], 3)
    return f"Which {kind} comes after {names[place]}?", [names[place + 1], *wrong]


def _prose(draw: random.Random, sentences: int) -> str:
    parts = (PEOPLE, DEEDS, PLACES)
    return " ".join(" ".join(map(draw.choice, parts)) + "." for _ in range(sentences))
