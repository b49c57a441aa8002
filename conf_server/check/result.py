"""What a check has found, as a table for people and as JSON for machines, with its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from conf_server.check.compare import Difference, pooled
from conf_server.check.expectations import Missing
from conf_server.check.inner_compare import INNER_BY_DTYPE, InnerLine, InnerTolerance
from conf_server.check.tolerance import Tolerance

ALL: Final = "all"
"""Stands for a text's name in the lines that take all texts of one kind together."""

_HEAD: Final = (
    "text",
    "rows",
    "tokens",
    "mean",
    "max",
    "KL top-k",
    "argmax",
    "regret",
    "worst statistic",
    "worst token",
)


@dataclass(frozen=True)
class WorstToken:
    """The token with the largest difference.

    Attributes:
        position: where it stands in the sequence, counted from 0.
        context: the end of the text before it.
        token: its own text.
        logprob: its log-probability in the engine, in nats.
        reference: its log-probability in transformers, in nats.
    """

    position: int
    context: str
    token: str
    logprob: float
    reference: float

    def __str__(self) -> str:
        return (
            f"{self.context + '[' + self.token + ']'!r} {self.logprob:.3f} for {self.reference:.3f}"
        )


@dataclass(frozen=True)
class Line:
    """One kind of rows of one text, or of `ALL` texts, which have no `worst` token."""

    text: str
    kind: str
    difference: Difference
    worst: WorstToken | None = None

    def cells(self) -> tuple[str, ...]:
        """The line of the table."""
        apart = self.difference
        statistic = apart.worst_statistic
        return (
            self.text,
            self.kind,
            str(apart.num_tokens),
            _small(apart.mean),
            _small(apart.max),
            _small(apart.kl),
            f"{apart.agreement:.1%}",
            _small(apart.regret),
            f"{statistic.name} {_small(statistic.max)}" if statistic else "-",
            str(self.worst or ""),
        )


@dataclass(frozen=True)
class CheckResult:
    """Everything that a check has found.

    Attributes:
        model: the model that the engine ran.
        reference: the model that transformers loaded.
        dtype: the engine's type of activations.
        quantization: the format of the engine's weights; None for none.
        top_k: how many candidates were compared at each token.
        tolerance: the limits.
        statistics: whether the engine computes token statistics, which were compared then.
        lines: one for each text and kind of rows.
        missing: texts and kinds that should have a line and have none.
        inner: one for each text and kind whose hidden states were compared.
        inner_notes: what of these could not be compared.
        inner_tolerance: their limits.
    """

    model: str
    reference: str
    dtype: str
    quantization: str | None
    top_k: int
    tolerance: Tolerance
    statistics: bool
    lines: Sequence[Line]
    missing: Sequence[Missing] = ()
    inner: Sequence[InnerLine] = ()
    inner_notes: Sequence[str] = ()
    inner_tolerance: InnerTolerance = INNER_BY_DTYPE["float32"]

    @property
    def ok(self) -> bool:
        """Whether the check passes. Where nothing was compared it does not."""
        return bool(self.lines) and not self.failures()

    def totals(self) -> list[Line]:
        """A line for each kind of rows, with all texts together."""
        kinds: dict[str, list[Difference]] = {}
        for line in self.lines:
            kinds.setdefault(line.kind, []).append(line.difference)
        return [Line(ALL, kind, pooled(differences)) for kind, differences in kinds.items()]

    def failures(self) -> list[str]:
        """What is past the tolerance or missing, one entry for each such line of the table.

        Means are judged for each text, and more strictly over all texts of a kind. Agreement is
        judged over all texts only: in a text of five tokens, one pair of almost equally likely
        tokens makes 20%.
        """
        single = [
            f"{line.text}/{line.kind}: {why}"
            for line in self.lines
            if (why := self.tolerance.exceeded(line.difference))
        ]
        together = [
            f"{line.text}/{line.kind}: {why}"
            for line in self.totals()
            if (why := self.tolerance.exceeded_together(line.difference))
        ]
        absent = [f"{one.text}/{one.kind}: {one.reason}" for one in self.missing if not one.excuse]
        return single + together + absent + self._inner_failures()

    def _inner_failures(self) -> list[str]:
        return [
            f"{line.text}/{line.kind}: {why}"
            for line in self.inner
            if (why := line.exceeded(self.inner_tolerance))
        ]

    def notes(self) -> list[str]:
        """What could not be compared without failing the check."""
        excused = [one for one in self.missing if one.excuse]
        notes = [
            f"Not compared: {', '.join(f'{one.text}/{one.kind}' for one in group)}: {excuse}."
            for excuse, group in groupby(excused, lambda one: one.excuse)
        ]
        if not self.statistics:
            notes.append(
                "Not compared: token statistics: this engine computes none, and confidence comes "
                "from its top-k log-probabilities."
            )
        return [*notes, *self.inner_notes]

    def verdict(self) -> str:
        """PASS or FAIL with the limits, and what is past them."""
        numbers = self.dtype + (f", {self.quantization}" if self.quantization else "")
        compared = f"{len(self.lines)} comparisons, {numbers}; tolerance: {self.tolerance}"
        if self.ok:
            return f"PASS: {compared}."
        found = "\n  ".join(self.failures() or ["nothing was compared"])
        return f"FAIL: {compared}. Failures:\n  {found}"

    def table(self) -> str:
        """The table of differences in nats, the notes and the verdict."""
        rows = [
            _HEAD,
            *(line.cells() for line in self.lines),
            *(_cells_of_missing(one) for one in self.missing),
            *(line.cells() for line in self.totals()),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_aligned(row, widths) for row in rows]
        head = f"engine {self.model} against transformers float32 {self.reference}"
        inner = [*inner_table(self.inner), ""] if self.inner else []
        return "\n".join([head, "", *lines, "", *inner, *self.notes(), self.verdict()])

    def as_json(self) -> dict[str, Any]:
        """The object that --json prints. Infinities are null there, for JSON has none."""
        return {
            "object": "check",
            "ok": self.ok,
            "model": self.model,
            "reference": self.reference,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "top_k": self.top_k,
            "tolerance": asdict(self.tolerance),
            "token_statistics": "engine" if self.statistics else "topk",
            "failures": self.failures(),
            "lines": [_finite(_line_json(line)) for line in self.lines],
            "missing": [
                {"text": one.text, "rows": one.kind, "excuse": one.excuse or None}
                for one in self.missing
            ],
            "totals": [_finite(_line_json(line)) for line in self.totals()],
            "inner": [_finite(_inner_json(line)) for line in self.inner],
        }


def inner_table(lines: Sequence[InnerLine]) -> list[str]:
    """Lines of text: what was found of hidden states and attention weights."""
    rows = [("text", "rows", "tokens", "hidden states", "attention", "worst layers")]
    for line in lines:
        weights = "-" if line.weights is None else _small(line.weights)
        layers = f"{line.states_layer}, {'-' if line.weights is None else line.weights_layer}"
        rows.append(
            (line.text, line.kind, str(line.num_tokens), _small(line.states), weights, layers)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_aligned(row, widths) for row in rows]


def _inner_json(line: InnerLine) -> dict[str, Any]:
    found = asdict(line)
    found["rows"] = found.pop("kind")
    return found


def _line_json(line: Line) -> dict[str, Any]:
    difference = asdict(line.difference)
    del difference["worst"]  # an index into arrays that the reader does not have
    statistic = line.difference.worst_statistic
    return {
        "text": line.text,
        "rows": line.kind,
        **difference,
        "statistics": {column.pop("name"): column for column in difference["statistics"]} or None,
        "worst_statistic": statistic and statistic.name,
        "worst": line.worst and asdict(line.worst),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(field) for name, field in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells_of_missing(one: Missing) -> tuple[str, ...]:
    blank = [""] * (len(_HEAD) - 4)
    return (one.text, one.kind, "0", *blank, one.reason)


def _small(number: float) -> str:
    """A number with as many digits as fit the column: six after the point, or three if large."""
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(number, 6) + 0.0:.6f}" if abs(number) < 0.1 else f"{number:.3f}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    left = (0, 1, len(row) - 1)
    cells = (
        cell.ljust(width) if place in left else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()
