"""Lets the model read prompt and answers once more, for what its layers make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conf_server.backends.base import (
    Answer,
    Backend,
    Chat,
    Completion,
    ForcingBackend,
    ForcingItem,
    ForcingJob,
    Prompt,
)
from conf_server.backends.paired import Side, readers_of, side_of
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
    """Asks for hidden states and attention weights, and counts what that costs.

    For each need the engine is asked, or the scorer, as the task says.
    """

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self._task = task
        self._backend = backend
        self._stages = stages

    def asked(self, need: Need) -> ForcingBackend:
        """Who is asked for a need."""
        return side_of(self._backend, self._task.sides.get(need, Side.ENGINE))

    def num_layers(self, need: Need) -> int:
        """Decoder layers of the model that is asked."""
        return self.asked(need).limits().num_layers

    async def states(
        self, need: Need, jobs: Sequence[ForcingJob], wanted: WantedStates
    ) -> list[ForcedStates]:
        """What is wanted of each text.

        Raises:
            TooLongError: a text does not fit the model.
        """
        backend = self.asked(need)
        longest = backend.limits().max_len - 1
        for job in jobs:
            if len(job.text.token_ids) > longest:
                count = len(job.text.token_ids)
                raise TooLongError(job.path, f"{count} tokens to read, at most {longest}")
        with self._stages.stage(need):
            found = await backend.states(jobs, wanted, self._task.caller.at(need))
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

    async def texts(
        self, need: Need, answers: Sequence[Answer], given: Sequence[ForcingJob | None]
    ) -> list[ForcedText]:
        """Prompt and answers in the tokens of the model that is asked, be it another one.

        Args:
            given: as in `text`, of each answer.
        """
        side = self._task.sides.get(need, Side.ENGINE)
        if side is Side.ENGINE or readers_of(self._backend).same_model:
            return [self.text(*pair) for pair in zip(answers, given, strict=True)]
        completions = tuple(
            Completion(answer.text, finished=answer.finish_reason == "stop") for answer in answers
        )
        item = ForcingItem(self._foreign_prompt(), completions, "", ("answer",) * len(answers))
        return [job.text for job in await self.asked(need).prepare([item])]

    def _foreign_prompt(self) -> Prompt:
        """The prompt for another model, in its own chat template."""
        prompt = self._task.ask.prompt
        if isinstance(prompt, Chat):
            return replace(prompt, template=None, template_kwargs=None)
        if isinstance(prompt.content, str):
            return prompt
        return replace(prompt, content=self._backend.text_of(prompt.content))

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
