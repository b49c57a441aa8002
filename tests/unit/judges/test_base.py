"""Who compares texts, how much of it, and in whose turn. No engine, no server."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from conf_server.backends import forcing
from conf_server.backends.forcing import ForcingOptions, TextForcing
from conf_server.engine.client.teacher_forcing import ForcedLabels
from conf_server.gathering.gather import Gathered
from conf_server.judges.base import FunctionJudge, JudgeContext, RougeLJudge, SelfNliJudge
from conf_server.serving.score_protocol import ScoreItem
from conf_server.serving.uncertainty_handler import Plan, estimate_all
from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.registry import Method
from conf_server.uncertainty.words.overlap import jaccard

SLOTS = 2
WORDS = ["[UNK]", "True", "False", "A", "B", "C"]


class Model:
    """Answers a question with its number, once it is told to."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.aborted: list[str] = []
        self.answers: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def force_labels(self, *args: Any, **options: Any) -> ForcedLabels:
        request_id: str = args[-1]
        self.asked.put_nowait(request_id)
        try:
            await self.answers[request_id].wait()
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise
        return ForcedLabels(np.full(3, float(request_id.rpartition("-")[2])), 1, 0)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(forcing, "force_labels", model.force_labels)
    return model


def text_forcing() -> TextForcing:
    """With a tokenizer of words, and `SLOTS` label requests at a time."""
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    scheduler = SimpleNamespace(max_num_queued_reqs=SLOTS * forcing.QUEUE_SHARE)
    chat: Any = SimpleNamespace(
        engine_client=SimpleNamespace(vllm_config=SimpleNamespace(scheduler_config=scheduler)),
        model_config=SimpleNamespace(max_model_len=64, get_vocab_size=lambda: len(WORDS)),
        models=None,
        online_renderer=None,
        renderer=SimpleNamespace(
            tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
        ),
    )
    return TextForcing(chat)


def questions(name: str, count: int, made: list[str]) -> Iterator[Callable[[], ScoreItem]]:
    def make(number: int) -> ScoreItem:
        made.append(f"{name}-{number}")
        return ScoreItem(prompt="is it", completions=[" True", " False"])

    return (partial(make, number) for number in range(count))


async def test_requests_take_turns_and_an_item_is_made_in_its_own(model: Model) -> None:
    texts, made = text_forcing(), list[str]()

    def ask(name: str, count: int) -> asyncio.Task[list[ForcedLabels]]:
        items = questions(name, count, made)
        return asyncio.create_task(texts.labels(items, True, name, ForcingOptions()))

    many, one = ask("many", 6), ask("one", 1)
    assert [await model.asked.get() for _ in range(SLOTS)] == ["many-0", "many-1"]
    model.answers["many-1"].set()
    assert await model.asked.get() == "one-0"
    assert made == ["many-0", "many-1", "one-0"]
    model.answers["one-0"].set()
    assert [labels.logprobs[0] for labels in await one] == [0]
    for number in range(6):
        model.answers[f"many-{number}"].set()
    assert [labels.logprobs[0] for labels in await many] == [0, 1, 2, 3, 4, 5]


async def test_the_first_failure_ends_a_requests_other_questions(model: Model) -> None:
    made: list[str] = []

    def broken() -> ScoreItem:
        raise ZeroDivisionError

    items = [*questions("one", 1, made), broken, *questions("more", 9, made)]
    with pytest.raises(ZeroDivisionError):
        await text_forcing().labels(items, True, "request", ForcingOptions())
    assert made == ["one-0"]


async def test_a_client_that_leaves_takes_its_questions_with_it(model: Model) -> None:
    texts = text_forcing()
    context = JudgeContext("Where?", False, "request", True, ForcingOptions())
    pairs = [(f"it is {number}", "it is") for number in range(9)]
    work = asyncio.create_task(SelfNliJudge(texts).judge(pairs, context))
    asked = [await model.asked.get() for _ in range(SLOTS)]
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert set(model.aborted) == set(asked)
    assert model.asked.empty()
    model.answers["next-0"].set()
    (found,) = await texts.labels(questions("next", 1, []), True, "next", ForcingOptions())
    assert found.num_tokens == 1


def test_what_a_comparison_counts_is_what_it_costs() -> None:
    linear, quadratic = FunctionJudge(jaccard), RougeLJudge()
    assert linear.characters(2**16, 2**16) == 2**17
    assert quadratic.characters(2**16, 2**16) == 2**20
    assert quadratic.characters(2**13, 2**13) == linear.characters(2**13, 2**13)
    assert quadratic.characters(10, 2**20) == 10 + 2**20


def test_no_estimate_is_made_for_nobody() -> None:
    made: list[str] = []

    def method(name: str) -> Method:
        def estimate(evidence: Evidence) -> Estimate:
            made.append(name)
            return Estimate(0.5)

        return Method(name, frozenset(), estimate, "", "")

    plan = Plan((method("first"), method("second")), frozenset(), {}, None, 0)
    nothing: Any = None
    gathered = Gathered(Evidence(), nothing, [], {}, frozenset(), "")
    with pytest.raises(CancelledError):
        estimate_all(plan, gathered, lambda: bool(made))
    assert made == ["first"]
