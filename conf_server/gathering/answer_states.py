"""Hidden states of the answer, as methods read them that were fitted on those of other texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import Answer, Backend, ForcingJob
from conf_server.gathering.metered import Stages
from conf_server.gathering.task import Task
from conf_server.gathering.way import UnmetError
from conf_server.stats.forced import ForcedText, WantedAttention, WantedStates
from conf_server.stats.lookback import lookback_ratios
from conf_server.uncertainty.fitted import Pooled
from conf_server.uncertainty.needs import Need

_POOLED: Final = {
    Need.TEXT_STATES: Pooled.TEXT,
    Need.ANSWER_STATES: Pooled.ANSWER,
    Need.LAST_STATES: Pooled.LAST,
}


class AnswerStates:
    """Asks a backend for the answer's hidden states in the layers that were fitted."""

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self._task = task
        self._backend = backend
        self._stages = stages

    async def of(self, need: Need, answer: Answer) -> Mapping[int, NDArray[np.float64]]:
        """By layer, (d,): the answer's state, pooled as the need says.

        Raises:
            UnmetError: no position counts.
        """
        task, pooled = self._task, _POOLED[need]
        assert task.fitted is not None
        text = self._text(answer)
        if len(text.token_ids) <= (text.num_context if pooled.is_of_answer else 0):
            raise UnmetError("the answer has no token before its end")
        layers = task.fitted.layers(task.methods, pooled)
        wanted = WantedStates(layers, "mean" if pooled.is_mean else "last", pooled.is_of_answer)
        with self._stages.stage(need):
            job = ForcingJob(text, 0, "answer")
            (forced,) = await self._backend.states([job], wanted, task.caller.at(need))
        self._stages.spend(need, len(text.token_ids))
        states = forced.states[:, 0].astype(np.float64)
        return dict(zip(layers, states, strict=True))

    async def lookback_ratios(self, answer: Answer) -> NDArray[np.float64]:
        """(layers x heads,): how far each head looks back at the prompt.

        Raises:
            UnmetError: there is no prompt, or no position of the answer counts.
        """
        text = self._text(answer)
        if len(text.token_ids) <= text.num_context or not text.num_context:
            raise UnmetError("there is no prompt, or the answer has no token before its end")
        every = tuple(range(self._backend.limits().num_layers))
        attention = WantedAttention(every, history=0, context_mass=True)
        wanted = WantedStates((), completion_only=True, attention=attention)
        need = Need.LOOKBACK_RATIOS
        with self._stages.stage(need):
            job = ForcingJob(text, 0, "answer")
            (forced,) = await self._backend.states([job], wanted, self._task.caller.at(need))
        self._stages.spend(need, len(text.token_ids))
        assert forced.attention is not None
        assert forced.attention.context_mass is not None
        return lookback_ratios(forced.attention.context_mass, text.num_context).flatten()

    def _text(self, answer: Answer) -> ForcedText:
        """Prompt and answer without its end token.

        Of an answer that was generated the last token is left out, whatever it is: the model has
        not read it. A client's answer that is not said to be finished has no end token to leave
        out.
        """
        task = self._task
        assert task.prompt_ids is not None
        if task.answer is None:
            ids = [*task.prompt_ids, *answer.rows.token_ids.tolist()]
            return ForcedText(ids[:-1], len(task.prompt_ids))
        job = task.given[0]
        ids = job.text.token_ids
        return ForcedText(ids[:-1] if job.finished else ids, job.text.num_context)
