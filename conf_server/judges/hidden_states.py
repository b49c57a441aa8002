"""The served model as a judge: how near two texts are in its hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import Backend, ForcingItem, Plain
from conf_server.judges.base import Judge, JudgeContext, Pair, Verdicts
from conf_server.stats.forced import WantedStates
from conf_server.uncertainty.pairs import from_similarities

BATCH: Final = 32
"""Texts that the engine sees at a time: thousands would stand before everybody else's requests."""


class HiddenStatesJudge(Judge):
    """Cosine of two texts' hidden states, one short prefill a text.

    A text is read on its own, and its vector is the mean of its tokens' states after the final
    norm. Below that norm a few numbers, and the first token's state, outweigh all others, so that
    all texts look alike. A cosine c becomes the similarity max(c, 0).
    """

    symmetric = True

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: i for i, text in enumerate(texts)}
        vectors = np.concatenate(
            [
                await self._directions(texts[start : start + BATCH], context)
                for start in range(0, len(texts), BATCH)
            ]
        )
        first = vectors[[place[a] for a, _ in pairs]]
        second = vectors[[place[b] for _, b in pairs]]
        return from_similarities((first * second).sum(axis=1))

    async def _directions(self, texts: Sequence[str], context: JudgeContext) -> NDArray[np.float64]:
        """(texts, d), each of length 1, or 0 for a text without tokens."""
        limits = self._backend.limits()
        found = np.zeros((len(texts), limits.hidden_size))
        read = [i for i, text in enumerate(texts) if text]
        items = [ForcingItem(Plain(texts[i]), (), "", ()) for i in read]
        jobs = await self._backend.prepare(items)
        states = await self._backend.states(
            jobs, WantedStates((limits.num_layers,)), context.caller
        )
        context.notes.prompt_tokens += sum(len(job.text.token_ids) for job in jobs)
        if read:
            vectors = np.stack([forced.states[0, 0] for forced in states]).astype(np.float64)
            found[read] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return found
