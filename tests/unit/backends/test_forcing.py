"""Texts on their way into teacher forcing: whose turn it is, and what is scored. No engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from conf_server.backends.base import (
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    Framing,
    LabelQuestion,
    Plain,
)
from conf_server.backends.forcing import TextForcing
from conf_server.judges.base import JudgeContext
from conf_server.judges.self_nli import SelfNliJudge
from conf_server.refusal import RefusalError, TooLongError
from conf_server.stats.forced import ForcedLabels, ForcedRows, ForcedText, WantedRows

SLOTS = 2
WORDS = ["[UNK]", "True", "False", "A", "B", "C", "<end>", "<turn>"]
END, END_OF_TURN = 6, 7
PLAIN = Plain("A B")


class Model:
    """Answers a question with its number, once it is told to."""

    max_len = 64
    max_chars = 64 * 6
    vocab_size = len(WORDS)
    block_size = 4

    def __init__(self) -> None:
        words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
        words.pre_tokenizer = Whitespace()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.aborted: list[str] = []
        self.answers: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def render(self, chat: Chat, path: str) -> list[int]:
        return [1] * len(chat.messages)

    async def end_token(self, context: Chat | None, path: str) -> int:
        return END if context is None else END_OF_TURN

    async def force(self, text: ForcedText, wanted: WantedRows, caller: Caller) -> ForcedRows:
        await self._wait(caller.request_id)
        nothing: Any = None
        return nothing

    async def force_labels(
        self, context: list[int], labels: Sequence[int], caller: Caller
    ) -> ForcedLabels:
        await self._wait(caller.request_id)
        return ForcedLabels(np.full(3, float(caller.request_id.rpartition("-")[2])), 1, 0)

    async def _wait(self, request_id: str) -> None:
        self.asked.put_nowait(request_id)
        try:
            await self.answers[request_id].wait()
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise


def questions(name: str, count: int, made: list[str]) -> Iterator[Callable[[], LabelQuestion]]:
    def make(number: int) -> LabelQuestion:
        made.append(f"{name}-{number}")
        return LabelQuestion(Plain("is it"), (" True", " False"))

    return (partial(make, number) for number in range(count))


def item(*completions: Completion, context: Plain | Chat = PLAIN) -> ForcingItem:
    paths = tuple(f"completions.{number}" for number in range(len(completions)))
    return ForcingItem(context, completions, "", paths)


async def test_requests_take_turns_and_a_question_is_made_in_its_own() -> None:
    model, made = Model(), list[str]()
    texts = TextForcing(model, SLOTS)

    def ask(name: str, count: int) -> asyncio.Task[list[ForcedLabels]]:
        return asyncio.create_task(texts.labels(questions(name, count, made), Caller(name)))

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


async def test_questions_have_no_more_tokens_at_a_time_than_they_may() -> None:
    """Three tokens each, of which the last is a label; one with more than all is asked alone."""
    model, made = Model(), list[str]()
    texts = TextForcing(model, labels_in_flight=9, label_tokens=8)
    few = asyncio.create_task(texts.labels(questions("few", 3, made), Caller("few")))
    assert [await model.asked.get() for _ in range(2)] == ["few-0", "few-1"]

    def long() -> LabelQuestion:
        return LabelQuestion(Plain("is it " * 9), (" True", " False"))

    alone = asyncio.create_task(texts.labels([long], Caller("long")))
    model.answers["few-0"].set()
    assert await model.asked.get() == "few-2"
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert model.asked.empty()
    for number in (1, 2):
        model.answers[f"few-{number}"].set()
    assert await model.asked.get() == "long-0"
    model.answers["long-0"].set()
    await asyncio.gather(few, alone)


async def test_the_first_failure_ends_a_requests_other_questions() -> None:
    made: list[str] = []

    def broken() -> LabelQuestion:
        raise ZeroDivisionError

    asked = [*questions("one", 1, made), broken, *questions("more", 9, made)]
    with pytest.raises(ZeroDivisionError):
        await TextForcing(Model(), SLOTS).labels(asked, Caller("request"))
    assert made == ["one-0"]


async def test_a_client_that_leaves_takes_its_questions_with_it() -> None:
    model = Model()
    texts: Any = TextForcing(model, SLOTS)
    context = JudgeContext("Where?", Framing(is_chat=False), Caller("request"))
    pairs = [(f"it is {number}", "it is") for number in range(9)]
    work = asyncio.create_task(SelfNliJudge(texts).judge(pairs, context))
    asked = [await model.asked.get() for _ in range(SLOTS)]
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert set(model.aborted) == set(asked)
    assert model.asked.empty()
    model.answers["next-0"].set()
    (found,) = await texts.labels(questions("next", 1, []), Caller("next"))
    assert found.num_tokens == 1


async def test_labels_that_begin_alike_are_no_labels() -> None:
    question = LabelQuestion(Plain("is it"), (" A B", " A C"))
    with pytest.raises(RefusalError, match="does not tell ' A B', ' A C' apart"):
        await TextForcing(Model(), SLOTS).labels([lambda: question], Caller("request"))


async def test_the_first_text_of_a_context_runs_ahead() -> None:
    model = Model()
    texts = TextForcing(model)
    context = Plain((1, 2, 3, 1))  # one block
    first, second = Completion((3,)), Completion((4,))
    jobs = await texts.prepare([item(first, second, context=context)])
    wanted = WantedRows(1, 0, statistics=True)
    work = asyncio.create_task(texts.force(jobs, wanted, Caller("request")))
    assert await model.asked.get() == "request-0"
    for _ in range(3):
        await asyncio.sleep(0)
    assert model.asked.empty()
    model.answers["request-0"].set()
    assert await model.asked.get() == "request-1"
    model.answers["request-1"].set()
    await work


@pytest.mark.parametrize(
    ("completion", "context", "ids"),
    [
        (Completion("C"), Plain("A B "), [3, 4, 5]),
        (Completion("C", finished=True), Plain("A B "), [3, 4, 5, END]),
        (Completion((5,), finished=True), Plain("A B"), [3, 4, 5, END]),
        (Completion("", finished=True), Plain("A B"), [3, 4, END]),
        (Completion("C", finished=True), Chat(({}, {})), [1, 1, 5, END_OF_TURN]),
    ],
)
async def test_a_finished_text_ends_with_the_models_end_token(
    completion: Completion, context: Plain | Chat, ids: list[int]
) -> None:
    (job,) = await TextForcing(Model()).prepare([item(completion, context=context)])
    assert job.text == ForcedText(ids, 2)
    assert job.finished == completion.finished


@pytest.mark.parametrize(
    ("context", "ids", "path"),
    [
        (Plain("A B "), [3, 4], "items.1.prompt"),
        (Plain((5, 3)), [5, 3], "items.1.prompt"),
        (Chat(({}, {})), [1, 1], "items.1.messages"),
    ],
)
async def test_a_context_without_completions_is_a_text_on_its_own(
    context: Plain | Chat, ids: list[int], path: str
) -> None:
    items = [item(Completion("C")), ForcingItem(context, (), "items.1.", ())]
    _, job = await TextForcing(Model()).prepare(items)
    assert job == ForcingJob(ForcedText(ids, len(ids)), job.group, path)


async def test_a_text_on_its_own_shares_its_context() -> None:
    items = [item(Completion("C")), item(), item(context=Plain("B"))]
    jobs = await TextForcing(Model()).prepare(items)
    assert [job.group for job in jobs] == [0, 0, 1]


@pytest.mark.parametrize(
    ("context", "kind", "message"),
    [
        (Plain(""), RefusalError, "`items.1.prompt`: there are no tokens"),
        (Plain(()), RefusalError, "`items.1.prompt`: there are no tokens"),
        (Plain((3, 8)), RefusalError, "`items.1.prompt`: token id 8 is outside the vocabulary"),
        (Plain((1,) * 64), TooLongError, "`items.1.prompt`: 64 tokens"),
        (Chat(({},) * 64), TooLongError, "`items.1.messages`: 64 tokens"),
    ],
)
async def test_a_text_on_its_own_that_cannot_be_forced_is_refused(
    context: Plain | Chat, kind: type[RefusalError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await TextForcing(Model()).prepare([ForcingItem(context, (), "items.1.", ())])


@pytest.mark.parametrize(
    ("completion", "kind", "message"),
    [
        (Completion(""), RefusalError, "`completions.0`: there are no tokens"),
        (Completion((8,)), RefusalError, "`completions.0`: token id 8 is outside the vocabulary"),
        (Completion((1,) * 62), TooLongError, "`completions.0`: 64 tokens with its context"),
    ],
)
async def test_what_cannot_be_forced_is_refused(
    completion: Completion, kind: type[RefusalError], message: str
) -> None:
    with pytest.raises(kind, match=message) as refused:
        await TextForcing(Model()).prepare([item(completion)])
    assert refused.value.field == "completions.0"
