"""What the model's layers make of prompt and answers: evidence from hidden states and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import (
    Answer,
    Backend,
    Completion,
    ForcingItem,
    ForcingJob,
    Plain,
)
from conf_server.gathering.answer_states import AnswerStates
from conf_server.gathering.metered import Stages
from conf_server.gathering.reader import Reader
from conf_server.gathering.task import Task
from conf_server.gathering.way import UnmetError, Way
from conf_server.heads.features import UnreadableError
from conf_server.stats.forced import ForcedText, WantedAttention, WantedStates
from conf_server.uncertainty import prompts
from conf_server.uncertainty.evidence import AnswerAttention, HeadVerdict
from conf_server.uncertainty.layers import middle, middle_third
from conf_server.uncertainty.needs import READING, Need

UNTEXTUAL: Final = "the prompt holds more than text"


class InnerStates:
    """Lets the model read prompt and answers once more, and asks its layers."""

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self._task = task
        self._reader = Reader(task, backend, stages)

    def missing(self) -> dict[Need, str]:
        """The task's needs that cannot be met, and why: only text can be read again."""
        if self._task.prompt_ids is not None:
            return {}
        return {need: UNTEXTUAL for need in self._task.needs if need.asks & READING}

    def ways(self, answer: Answer, samples: Sequence[Answer]) -> Mapping[Need, Way]:
        """How to come by what is asked about answer and samples."""
        states = AnswerStates(self._task, self._reader)
        return {
            Need.TEXT_STATES: partial(states.of, Need.TEXT_STATES, answer),
            Need.ANSWER_STATES: partial(states.of, Need.ANSWER_STATES, answer),
            Need.LAST_STATES: partial(states.of, Need.LAST_STATES, answer),
            Need.LOOKBACK_RATIOS: partial(states.lookback_ratios, answer),
            Need.SAMPLE_STATES: partial(self._sample_states, samples),
            Need.SELF_ATTENTION: partial(self._self_attention, answer),
            Need.ANSWER_ATTENTION: partial(self._answer_attention, answer),
            Need.JUDGING_ATTENTION: partial(self._judging_attention, answer),
            Need.UHEAD: partial(self._head_verdict, answer),
        }

    async def _sample_states(self, samples: Sequence[Answer]) -> NDArray[np.float64]:
        """(m, d): the middle layer's state of each sample, with the prompt before it.

        It is the state from which the model has made the sample's last token, so that token, which
        most often is the end token, is left out.
        """
        given = self._task.given[1:] if self._task.samples else (None,) * len(samples)
        need = Need.SAMPLE_STATES
        texts = await self._reader.texts(need, samples, given)
        if any(len(text.token_ids) < 2 for text in texts):
            raise UnmetError("without a prompt a sample of one token has no state before it")
        jobs = [
            ForcingJob(ForcedText(text.token_ids[:-1], text.num_context), 0, "samples")
            for text in texts
        ]
        wanted = WantedStates((middle(self._reader.num_layers(need)),), "last")
        found = await self._reader.states(need, jobs, wanted)
        return np.stack([forced.states[0, 0] for forced in found]).astype(np.float64)

    async def _self_attention(self, answer: Answer) -> NDArray[np.float64]:
        """(tokens of prompt and answer, heads): what each pays to itself in the middle layer."""
        need = Need.SELF_ATTENTION
        given = self._task.given[0] if self._task.given else None
        (text,) = await self._reader.texts(need, [answer], [given])
        attention = WantedAttention((middle(self._reader.num_layers(need)),))
        found = await self._reader.answer_attention(need, text, attention, False)
        return found.weights[0, :, :, 0].astype(np.float64)

    async def _answer_attention(self, answer: Answer) -> AnswerAttention:
        """What the answer's tokens but the last pay to themselves."""
        need = Need.ANSWER_ATTENTION
        limits = self._reader.asked(need).limits()
        layers = tuple(middle_third(limits.num_layers))
        text = self._reader.answer_text(answer)
        before_last = ForcedText(text.token_ids[:-1], text.num_context)
        if len(before_last.token_ids) > text.num_context:
            attention = WantedAttention(layers)
            found = await self._reader.answer_attention(need, before_last, attention, True)
            own = found.weights[..., 0].astype(np.float64)
        else:
            own = np.zeros((len(layers), 0, limits.num_heads))
        return AnswerAttention(own, layers.index(middle(limits.num_layers)))

    async def _judging_attention(self, answer: Answer) -> NDArray[np.float64]:
        """(n,): what the end of `prompts.eliciting` pays to each of the answer's tokens."""
        need = Need.JUDGING_ATTENTION
        backend = self._reader.asked(need)
        before, after = prompts.eliciting(self._task.question)
        end = ForcingItem(Plain(after, add_special_tokens=False), (), "answer", ())
        (suffix,) = await backend.prepare([end])
        own = tuple(answer.rows.token_ids.tolist())
        whole = Completion((*own, *suffix.text.token_ids))
        (job,) = await backend.prepare([ForcingItem(Plain(before), (whole,), "", ("answer",))])
        first = job.text.num_context
        attention = WantedAttention(
            tuple(range(self._reader.num_layers(need))),
            history=0,
            last_on=(first, first + len(own)),
        )
        found = await self._reader.answer_attention(need, job.text, attention, False)
        assert found.last is not None
        return found.last.mean(axis=(0, 1), dtype=np.float64)

    async def _head_verdict(self, answer: Answer) -> HeadVerdict:
        """What the trained head says of the answer."""
        head = self._task.head
        assert head is not None  # otherwise no plan has its method
        whole = self._reader.answer_text(answer)
        if not whole.num_context:
            raise UnmetError("without a prompt nothing stands before the answer's first token")
        states = None
        if head.reads_layers:
            text = head.text(whole)
            if reason := head.too_large(text):
                raise UnmetError(reason)
            states = await self._reader.answer_states(Need.UHEAD, text, head.wanted)
        try:
            return await head.judge(whole.num_context, answer.rows.candidate_logprobs, states)
        except UnreadableError as error:
            raise UnmetError(str(error)) from error
