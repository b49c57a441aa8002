"""Rows of an engine and of a reference, and results made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conf_server.check.compare import Difference, compare
from conf_server.check.expectations import Missing
from conf_server.check.reference_rows import ReferenceRows, log_softmax, reference_rows
from conf_server.check.reference_statistics import (
    StatisticDifference,
)
from conf_server.check.result import CheckResult, Line, WorstToken
from conf_server.check.tolerance import Tolerance
from conf_server.engine.worker.token_statistics import statistics_torch
from conf_server.stats.trace import TraceRows

LIMITS = Tolerance(mean=0.1, max=1.0, agreement=0.9)

# Three tokens, two candidates each: (token, first, second).
IDS = np.array([[7, 7, 3], [5, 4, 5], [9, 9, 1]], np.int32)
PROBABILITIES = np.array([[0.6, 0.6, 0.3], [0.2, 0.5, 0.2], [0.9, 0.9, 0.05]])
LOGPROBS = np.log(PROBABILITIES)


def engine(ids: Any = IDS, logprobs: Any = LOGPROBS) -> TraceRows:
    return TraceRows(ids, logprobs.astype(np.float64), np.ones(len(ids), np.int32))


def reference(logprobs: Any = LOGPROBS, best: Any = (7, 4, 9)) -> ReferenceRows:
    return ReferenceRows(logprobs[:, 0], logprobs[:, 1:], np.array(best), logprobs.max(1))


def difference(**fields: Any) -> Difference:
    same = Difference(
        num_tokens=10, mean=0.0, max=0.0, kl=0.0, coverage=1.0, agreement=1.0, regret=0.0, worst=0
    )
    return replace(same, **fields)


def result_of(
    *lines: Line,
    limits: Tolerance = LIMITS,
    statistics: bool = True,
    missing: tuple[Missing, ...] = (),
) -> CheckResult:
    return CheckResult(
        "served", "original", "bfloat16", None, 20, limits, statistics, lines, missing
    )


STATISTICS = (StatisticDifference("confidence", 0.01, 0.02), StatisticDifference("entropy", 0, 0.5))
WORST = WorstToken(41, "The capital\nof", " Paris", -0.25, -9.5)


TOP_K = 3
logit_rows = arrays(np.float32, (4, 9), elements=st.floats(-20, 20, width=32))


def rows_with_statistics(logits: Any, statistics: Any = "right") -> TraceRows:
    """What an engine says that has these logits: the likeliest token at each of n positions."""
    logprobs = log_softmax(logits)
    ids = np.argsort(-logprobs, axis=1)[:, :TOP_K]
    ids = np.column_stack((ids[:, 0], ids)).astype(np.int32)
    if isinstance(statistics, str):
        statistics = statistics_torch(torch.tensor(logits), [TOP_K] * len(logits)).numpy()
    found = np.take_along_axis(logprobs, ids.astype(np.int64), axis=1)
    return TraceRows(ids, found, np.ones(len(logits), np.int32), statistics)


def compared(logits: Any, rows: TraceRows) -> Difference:
    reference = reference_rows(logits, rows.token_ids, rows.candidate_ids, statistics=True)
    found = compare(rows, reference, sampled=False)
    assert found is not None
    return found


class Characters:
    """A tokenizer whose tokens are characters."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        return f"<{messages[0]['content']}>"
