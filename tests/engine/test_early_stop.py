"""Where the engine ends answers, against a look at whole ones. V1, one engine of a tiny model.

Its cache is too small for all answers at once, so that some are preempted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from conf_server.engine.marks import ask_for_rows
from conf_server.stats.early_stop import STOP_REASON, EarlyStop
from tests.engine.small_engine import small_engine
from tests.engine.telling_scheduler import TellingScheduler
from tests.engine.whole_answers import Answer, ask
from tests.slow_early_stop import looked_up
from tests.tiny_model import write_tiny_model

LENGTH = 40
QUESTIONS = 14
RULES = 5
FEW_BLOCKS = 25
"""Of up to 32 answers at once, each of which comes to need two."""

GRAMMAR = StructuredOutputsParams(regex="[a-z ]{90}")
ENGINE: dict[str, Any] = {
    "max_num_seqs": 32,
    "max_num_batched_tokens": 256,
    "num_gpu_blocks_override": FEW_BLOCKS,
    "scheduler_cls": TellingScheduler,
}


@dataclass
class Question:
    """What is asked, with or without a rule.

    Attributes:
        fields: of `SamplingParams`.
        min_tokens: an answer has at least.
    """

    prompt: list[int]
    fields: dict[str, Any]

    @property
    def min_tokens(self) -> int:
        return int(self.fields.get("min_tokens", 0))

    def params(self, rule: EarlyStop | None = None) -> SamplingParams:
        params = SamplingParams(max_tokens=LENGTH, temperature=1.0, **self.fields)
        at_end = params.output_kind == RequestOutputKind.FINAL_ONLY
        ask_for_rows(params, 0, 20, at_end, rule)
        return params


def questions() -> list[Question]:
    """Of every kind some: streamed, several answers, a shortest length, stop strings, a grammar."""
    draw = np.random.default_rng(1)
    made = []
    for number in range(QUESTIONS):
        stream = number % 2 == 0
        fields: dict[str, Any] = {
            "seed": number,
            "output_kind": RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
            "n": 2 if number % 3 == 0 else 1,
            "ignore_eos": True,
        }
        if number % 4 == 1:
            fields["min_tokens"] = 20
        if number % 4 == 2:
            fields["stop"] = ["e", "is"]
            fields["min_tokens"] = 4
        if number % 7 == 6:
            fields["structured_outputs"] = GRAMMAR
        made.append(Question(draw.integers(1000, 9000, 20).tolist(), fields))
    return made


@dataclass
class Asked:
    """What was asked with a rule, and the answers with it and without."""

    question: Question
    rule: EarlyStop
    whole: list[Answer]
    answers: list[Answer]


@dataclass
class Run:
    """What came out of the one engine."""

    asked: list[Asked]
    preemptions: float
    nothing_left: bool


async def run_all(folder: Path) -> Run:
    draw = np.random.default_rng(0)
    async with small_engine(folder, **ENGINE) as engine:
        given = questions()
        whole = await asyncio.gather(
            *(ask(engine, f"whole-{n}", one.prompt, one.params()) for n, one in enumerate(given))
        )
        cases = [
            (question, drawn_rule(draw, answers), answers)
            for question, answers in zip(given, whole, strict=True)
            for _ in range(RULES)
        ]
        ended = await asyncio.gather(
            *(
                ask(engine, f"ended-{n}", question.prompt, question.params(rule))
                for n, (question, rule, _) in enumerate(cases)
            )
        )
        asked = [Asked(*case, answers) for case, answers in zip(cases, ended, strict=True)]
        nothing_left = await engine.reset_prefix_cache()
    labels = {"engine": "0", "model_name": str(folder)}
    preemptions = REGISTRY.get_sample_value("vllm:num_preemptions_total", labels)
    return Run(asked, preemptions or 0, nothing_left)


def drawn_rule(draw: np.random.Generator, answers: Sequence[Answer]) -> EarlyStop:
    """A window of any size, and a threshold between its lowest and its median mean."""
    values = answers[0].confidences
    window = int(draw.integers(1, min(13, len(values) + 1)))
    means = np.convolve(values, np.ones(window) / window, "valid")
    below = float(draw.uniform(means.min() - 0.01, np.median(means)))
    return EarlyStop(below, window, window + int(draw.integers(0, 6)))


@pytest.fixture(scope="module")
def tiny(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(model_path, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def run(tiny: Path) -> Run:
    return asyncio.run(run_all(tiny))


def test_every_answer_ends_where_the_whole_says(run: Run) -> None:
    ends = {False: 0, True: 0}
    for one in run.asked:
        least = max(one.rule.min_tokens, one.question.min_tokens)
        rule = replace(one.rule, min_tokens=least)
        for whole, answer in zip(one.whole, one.answers, strict=True):
            at = looked_up(rule, whole.confidences)
            is_early = at is not None and at < len(whole.ids)
            ends[is_early] += 1
            expected = (whole.finish_reason, whole.stop_reason)
            assert (answer.finish_reason, answer.stop_reason) == (
                ("stop", STOP_REASON) if is_early else expected
            )
            stop = at if is_early else len(whole.ids)
            assert answer.ids == whole.ids[:stop]
            assert len(answer.rows) == stop
            np.testing.assert_allclose(answer.confidences, whole.confidences[:stop], atol=1e-4)
            assert whole.text.startswith(answer.text)
            assert is_early or answer.text == whole.text
    assert min(ends.values()) > 15, ends


def test_answers_were_preempted_and_nothing_is_left_of_them(run: Run) -> None:
    assert run.preemptions > 0
    assert run.nothing_left
