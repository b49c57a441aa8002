"""Files of `conf-server think`, made with a seed: traces that are surer where they are right."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from tests.unit.thoughts import thought, trace


def think_line(
    traces: list[dict[str, Any]], votes: dict[str, str | None], **fields: Any
) -> dict[str, Any]:
    """A line of the output; `think` among the fields replaces what its traces say."""
    think = fields.pop("think", {})
    return {"request": "1", **fields, "result": thought(traces, votes, **think)}


def think_lines(
    count: int = 40, budget: int = 16, warmup: int = 4, seed: int = 1
) -> list[dict[str, Any]]:
    """Questions of different difficulty, whose right answer is "70"."""
    rng = random.Random(seed)
    return [_line(rng, number, budget, warmup) for number in range(count)]


def _line(rng: random.Random, number: int, budget: int, warmup: int) -> dict[str, Any]:
    ease = rng.betavariate(1.2, 1.2)
    traces = []
    for index in range(budget):
        is_right = rng.random() < ease
        answer = "70" if is_right else rng.choice(["71", "17", "80", None])
        confidence = round(rng.gauss(10.5 if is_right else 9.5, 1.0), 3)
        phase = "warmup" if index < warmup else "final"
        tokens = rng.randrange(80, 240)
        traces.append(trace(index, answer, confidence, num_tokens=tokens, phase=phase))
    answers = Counter(one["answer"] for one in traces if one["answer"] is not None)
    winner = max(answers, key=lambda answer: answers[answer]) if answers else None
    question = [{"role": "user", "content": f"Question {number}?"}]
    return think_line(traces, {"majority": winner}, messages=question, reference="70")
