"""The numbers that a pass has collected, read line by line in the order of the input."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.errors import FitError

BATCH: Final = 256
"""Vectors that are in memory at once."""


class CollectedFile:
    """The answers of one pass.

    Attributes:
        lines: (n,) numbers of the input's lines that have an answer, in order.
    """

    def __init__(self, path: Path, only: Container[int] | None = None) -> None:
        """
        Args:
            path: a file that a pass has written; lines that the server refused are left out.
            only: numbers of the lines that count; None for all.
        """
        self._path = path
        lines, places = array("Q"), array("Q")
        for line, place in _places(path):
            if only is None or line in only:
                lines.append(line)
                places.append(place)
        order = np.argsort(np.array(lines))
        self.lines = np.array(lines)[order]
        self._places = np.array(places)[order]

    def __len__(self) -> int:
        return len(self.lines)

    def answer(self, line: int) -> dict[str, Any]:
        """The whole line of the file that answers a line of the input; there has to be one."""
        place = self._places[int(np.searchsorted(self.lines, line))]
        with self._path.open("rb") as file:
            file.seek(int(place))
            found: dict[str, Any] = json.loads(file.readline())
        return found

    def answers(self) -> Iterator[dict[str, Any]]:
        """The whole lines of the file, in the order of the input."""
        with self._path.open("rb") as file:
            for place in self._places:
                file.seek(int(place))
                yield json.loads(file.readline())

    def labels(self) -> Iterator[bool | None]:
        """`correct` of each line; None where it says nothing."""
        return (answer.get("correct") for answer in self.answers())

    def vectors(self, place: int | None) -> Iterator[NDArray[np.float32]]:
        """Vectors (d,), one for each answer.

        Args:
            place: of the layer in the answers; None for the lookback ratios of all layers.

        Raises:
            FitError: one of the numbers is none.
        """
        for answer in self.answers():
            (result,) = answer["result"]["data"]
            if place is None:
                vector = _decoded(result["attention"]["lookback"]["values"])
            else:
                vector = _decoded(result["states"]).reshape(result["shape"])[place, 0]
            if not np.isfinite(vector).all():
                what = "lookback ratio" if place is None else "hidden state"
                raise FitError(f"line {answer['line']}: its {what} has numbers that are none")
            yield vector

    def batches(self, place: int | None) -> Iterator[NDArray[np.float32]]:
        """The same in parts of shape (n, d)."""
        vectors = self.vectors(place)
        while batch := list(islice(vectors, BATCH)):
            yield np.stack(batch)

    def negative_mean_logprobs(self) -> Iterator[float]:
        """Nats, one for each answer of a pass over /v1/score.

        Raises:
            FitError: one of the answers has none.
        """
        for answer in self.answers():
            (result,) = answer["result"]["data"]
            if result["mean_logprob"] is None:
                raise FitError(f"line {answer['line']}: its log-probability is not finite")
            yield -float(result["mean_logprob"])


def _decoded(numbers: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(numbers), "<f4")


def _places(path: Path) -> Iterator[tuple[int, int]]:
    """Number of the input's line and place in the file, of each answer."""
    place = 0
    with path.open("rb") as file:
        for text in file:
            answer = json.loads(text)
            if "result" in answer:
                yield answer["line"], place
            place += len(text)
