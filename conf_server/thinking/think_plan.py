"""How a question is thought about many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from conf_server.thinking.answer_extraction import AnswerRule
from conf_server.thinking.consensus import Consensus

Calibrate = Literal["warmup", "finishers", "fixed", "none"]
Phase = Literal["warmup", "final"]
StoppedBy = Literal["budget", "consensus", "max_total_tokens"]


@dataclass(frozen=True)
class ThinkPlan:
    """What a request asks for, with what it leaves out.

    Attributes:
        budget: traces at most.
        concurrency: that run at a time, at most.
        calibrate: where the threshold comes from: from the first `warmup` traces, after which the
            others begin; from the first `warmup` that end, while others begin; it is given; or
            there is none.
        keep_top: share of the traces, those with the highest smallest window, that a threshold
            taken from them lets pass.
        below: nats, the given threshold.
        window: tokens of a window.
        consensus: when what still runs is ended.
        votes: names of the votes that are held; the first one decides.
        min_voters: traces above the threshold that a vote wants at least.
        answer: how traces are read for answers.
        max_total_tokens: of all traces.
        max_tokens: of one trace.
        seed: of the first trace; the others count on. None for random ones.
        keeps_texts: whether the texts of all traces are kept until the end.
    """

    budget: int
    concurrency: int
    calibrate: Calibrate
    warmup: int
    keep_top: float
    below: float | None
    window: int
    consensus: Consensus
    votes: tuple[str, ...]
    min_voters: int
    answer: AnswerRule
    max_total_tokens: int
    max_tokens: int
    seed: int | None
    keeps_texts: bool = False
