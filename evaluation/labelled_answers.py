"""The answers that `conf-server uncertainty` gave, as lines for `conf-server fit`.

    python -m evaluation.labelled_answers questions.jsonl estimates.jsonl > answers.jsonl

An answer is right when the reference stands in it, word for word, as in
`conf-server report --match contains`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf_server.report.labels import parse_label


def labelled(questions: Path, estimates: Path) -> Iterator[dict[str, Any]]:
    """A line for each question that has an answer.

    Args:
        questions, estimates: input and output of the command; lines belong together by `id`.
    """
    asked = {line["id"]: line for line in _lines(questions)}
    for line in _lines(estimates):
        if "result" in line:
            text = line["result"]["answer"]["text"]
            correct, _ = parse_label(line, 1).of(0, text, "contains")
            messages = asked[line["id"]]["messages"]
            yield {"id": line["id"], "messages": messages, "completion": text, "correct": correct}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path)
    parser.add_argument("estimates", type=Path)
    given = parser.parse_args()
    for line in labelled(given.questions, given.estimates):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
