"""Hidden states of the answer, as methods read them that were fitted on those of other texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import Answer
from conf_server.gathering.reader import Reader
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
    """Asks for the answer's hidden states in the layers that were fitted."""

    def __init__(self, task: Task, reader: Reader) -> None:
        self._task = task
        self._reader = reader

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
        forced = await self._reader.answer_states(need, text, wanted)
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
        every = tuple(range(self._reader.num_layers(Need.LOOKBACK_RATIOS)))
        wanted = WantedAttention(every, history=0, context_mass=True)
        found = await self._reader.answer_attention(Need.LOOKBACK_RATIOS, text, wanted, True)
        assert found.context_mass is not None
        return lookback_ratios(found.context_mass, text.num_context).flatten()

    def _text(self, answer: Answer) -> ForcedText:
        """Prompt and answer without its end token.

        Of an answer that was generated the last token is left out, whatever it is: the model has
        not read it. A client's answer that is not said to be finished has no end token to leave
        out.
        """
        whole, given = self._reader.answer_text(answer), self._task.given
        if given and not given[0].finished:
            return whole
        return ForcedText(whole.token_ids[:-1], whole.num_context)
