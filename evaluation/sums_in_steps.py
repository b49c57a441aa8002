"""120 sums of three small numbers, to be done in two steps, as lines for `conf-server think`.

python -m evaluation.sums_in_steps > questions.jsonl

Eight examples stand before each question, as turns of the same chat, which all traces of all
questions share.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import product
from typing import Any, Final

SUMS: Final = 120
EXAMPLES: Final = 8
SEED: Final = 20261128
NUMBERS: Final = range(2, 13)

Sum = tuple[int, int, int]


def question(numbers: Sum) -> str:
    return "Add {}, {} and {}.".format(*numbers)


def worked_out(numbers: Sum) -> str:
    """The right answer, in steps."""
    a, b, c = numbers
    return f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}. Answer: {a + b + c}"


def lines(temperature: float = 1.0) -> Iterator[dict[str, Any]]:
    """A line for each sum; no sum is an example, and none occurs twice."""
    drawn = random.Random(SEED).sample([*product(NUMBERS, NUMBERS, NUMBERS)], EXAMPLES + SUMS)
    shown = [
        {"role": role, "content": content}
        for numbers in drawn[:EXAMPLES]
        for role, content in (("user", question(numbers)), ("assistant", worked_out(numbers)))
    ]
    for number, numbers in enumerate(drawn[EXAMPLES:]):
        yield {
            "id": f"sum-{number}",
            "messages": [*shown, {"role": "user", "content": question(numbers)}],
            "max_tokens": 48,
            "temperature": temperature,
            "seed": 1000 * number,
            "reference": str(sum(numbers)),
        }


if __name__ == "__main__":
    for line in lines():
        print(json.dumps(line))
