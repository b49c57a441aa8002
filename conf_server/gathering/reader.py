"""Lets the model read prompt and answers once more, for what its layers make of them."""

from __future__ import annotations

from collections.abc import Sequence

from conf_server.backends.base import Answer, Backend, ForcingJob
from conf_server.gathering.metered import Stages
from conf_server.gathering.task import Task
from conf_server.refusal import TooLongError
from conf_server.stats.forced import (
    ForcedAttention,
    ForcedStates,
    ForcedText,
    WantedAttention,
    WantedStates,
)
from conf_server.uncertainty.needs import Need


class Reader:
    """Asks a backend for hidden states and attention weights, and counts what that costs."""

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self._task = task
        self._backend = backend
        self._stages = stages

    async def states(
        self, need: Need, jobs: Sequence[ForcingJob], wanted: WantedStates
    ) -> list[ForcedStates]:
        """What is wanted of each text.

        Raises:
            TooLongError: a text does not fit the model.
        """
        longest = self._backend.limits().max_len - 1
        for job in jobs:
            if len(job.text.token_ids) > longest:
                count = len(job.text.token_ids)
                raise TooLongError(job.path, f"{count} tokens to read, at most {longest}")
        with self._stages.stage(need):
            found = await self._backend.states(jobs, wanted, self._task.caller.at(need))
        self._stages.spend(need, sum(len(job.text.token_ids) for job in jobs))
        return found

    async def answer_states(
        self, need: Need, text: ForcedText, wanted: WantedStates
    ) -> ForcedStates:
        """The same of one text with the answer in it."""
        (found,) = await self.states(need, [ForcingJob(text, 0, "answer")], wanted)
        return found

    async def answer_attention(
        self, need: Need, text: ForcedText, wanted: WantedAttention, completion_only: bool
    ) -> ForcedAttention:
        """Its attention weights alone."""
        states = WantedStates((), completion_only=completion_only, attention=wanted)
        found = await self.answer_states(need, text, states)
        assert found.attention is not None
        return found.attention

    def text(self, answer: Answer, given: ForcingJob | None) -> ForcedText:
        """Prompt and answer as the model has read or written them.

        Args:
            given: the answer as a client has sent it; None if the model has written it.
        """
        if given is not None:
            return given.text
        prompt = self._task.prompt_ids
        assert prompt is not None  # otherwise what reads it is among the missing needs
        return ForcedText([*prompt, *answer.rows.token_ids.tolist()], len(prompt))

    def answer_text(self, answer: Answer) -> ForcedText:
        """The same of the request's own answer."""
        return self.text(answer, self._task.given[0] if self._task.given else None)
