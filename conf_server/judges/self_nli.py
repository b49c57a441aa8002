"""The served model as a judge: it says whether one text follows from another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from conf_server.backends.base import Backend, LabelQuestion
from conf_server.judges.base import Judge, JudgeContext, Pair, Verdicts
from conf_server.uncertainty import prompts


class SelfNliJudge(Judge):
    """Log-probabilities of three labels after a prompt, one prefill a pair."""

    symmetric = False
    asks_model = True

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def overhead(self, question: str) -> int:
        """The rest of the prompt: the question and our own words."""
        return len(prompts.self_nli("", "", question).text)

    async def judge(self, pairs: Sequence[Pair], context: JudgeContext) -> Verdicts:
        def question(pair: Pair) -> LabelQuestion:
            prompt = prompts.self_nli(*pair, context.question)
            return context.framing.question(prompt.text, prompt.labels)

        found = await self._backend.labels(
            (partial(question, pair) for pair in pairs),
            context.caller.at("nli"),
            context.advance,
        )
        context.notes.prompt_tokens += sum(labels.num_tokens for labels in found)
        logprobs = np.array([labels.logprobs for labels in found], np.float64).reshape(-1, 3)
        return _softmax(logprobs)


def _softmax(logprobs: Verdicts) -> Verdicts:
    weights = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
