"""Outputs of score and uncertainty, as the report reads them."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

from conf_server.report.answers import Answers
from conf_server.report.labels_file import LabelsFile
from conf_server.report.matching import Match
from conf_server.report.outputs import read_output


def uncertainty(text: str = "Paris.", **fields: Any) -> dict[str, Any]:
    """A line of `conf-server uncertainty`; `estimates` by name, value or the whole object."""
    given = fields.pop("estimates", {"perplexity": 0.5})
    estimates = {
        name: value
        if isinstance(value, dict)
        else {"value": value, "exact": True, "higher_is": "more uncertain"}
        for name, value in given.items()
    }
    unavailable = fields.pop("unavailable", None)
    result = {
        "object": "uncertainty",
        "model": "m",
        "answer": {"text": text},
        "estimates": estimates,
        "unavailable": unavailable,
    }
    return {"request": "1", **fields, "result": result}


def scored(*data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    result = {"object": "score", "model": "m", "data": list(data)}
    return {"request": "1", **fields, "result": result}


def write(folder: Path, *lines: Any, name: str = "out.jsonl") -> str:
    """An output that answers these lines of an input, in order."""
    path = folder / name
    numbered = [
        {"line": number, **line} if isinstance(line, dict) else line
        for number, line in enumerate(lines, 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in numbered)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def good_lines(count: int = 80) -> list[dict[str, Any]]:
    rng = random.Random(1)
    lines = []
    for _ in range(count):
        correct = rng.random() < 0.6
        unsure = abs(rng.gauss(0.3 if correct else 1.0, 0.4))
        estimates = {
            "perplexity": math.exp(unsure),
            "semantic_entropy": round(unsure + rng.gauss(0, 0.3), 1),
            "surety": {"value": -unsure, "exact": True, "higher_is": "less uncertain"},
        }
        lines.append(uncertainty(correct=correct, estimates=estimates))
    return lines


def judged(path: str, match: Match, labels_file: LabelsFile | None = None) -> Answers:
    """The answers of a file, and which of them are correct."""
    answers = read_output(path, labels_file)
    answers.judge(match)
    return answers
