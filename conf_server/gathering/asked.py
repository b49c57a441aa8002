"""What the model says of its own answer: evidence by prompts of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from conf_server.backends.base import Answer, Ask, Backend, Chat, LabelQuestion
from conf_server.backends.paired import Side, side_of
from conf_server.gathering.metered import Stages
from conf_server.gathering.task import Task
from conf_server.stats.forced import WantedRows
from conf_server.uncertainty import prompts
from conf_server.uncertainty.evidence import Generation
from conf_server.uncertainty.needs import Need
from conf_server.uncertainty.prompts import LabelPrompt

UNTRUNCATED: Final[Mapping[str, Any]] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Samples come from the model's own distribution unless the client says otherwise: the
estimators take that for granted, and a model's generation_config.json may not."""
STATEMENT_TOKENS: Final = 128
"""Longest answer to a question of ours that asks for words."""
VERDICT_TOKENS: Final = 8
"""Longest sampled answer to P(True)."""


class Questions:
    """Puts questions of ours to the model that has answered the client's."""

    def __init__(self, task: Task, backend: Backend, stages: Stages) -> None:
        self._task = task
        self._backend = backend
        self._stages = stages

    async def p_true(self, answer: Generation) -> tuple[float, float]:
        """Log-probabilities of True and False after `prompts.p_true`."""
        return await self._labels(Need.P_TRUE, prompts.p_true(self._task.question, answer.text))

    async def p_true_sampling(
        self, answer: Generation, samples: Sequence[Generation]
    ) -> tuple[float, float]:
        """The same after `prompts.p_true_sampling`, which shows the samples."""
        texts = [sample.text for sample in samples]
        prompt = prompts.p_true_sampling(self._task.question, answer.text, texts)
        return await self._labels(Need.P_TRUE_SAMPLING, prompt)

    async def p_true_samples(self, answer: Generation) -> tuple[str, ...]:
        """Sampled answers to `prompts.p_true`."""
        drawn = await self._ask(
            Need.P_TRUE_SAMPLES,
            prompts.p_true(self._task.question, answer.text).text,
            n=self._task.n_samples,
            temperature=self._task.ask.temperature,
            max_tokens=VERDICT_TOKENS,
            options=UNTRUNCATED,
        )
        return tuple(verdict.text for verdict in drawn)

    async def verbalized_1s(self) -> str:
        """The answer to `prompts.verbalized_1s`."""
        return await self._statement(Need.VERBALIZED_1S, prompts.verbalized_1s(self._task.question))

    async def linguistic_1s(self) -> str:
        """The answer to `prompts.linguistic_1s`."""
        return await self._statement(Need.LINGUISTIC_1S, prompts.linguistic_1s(self._task.question))

    async def verbalized_2s(self, answer: Generation) -> str:
        """The answer to `prompts.verbalized_2s`, asked after the model's answer."""
        text = prompts.verbalized_2s()
        prompt = self._task.ask.prompt
        if not isinstance(prompt, Chat):
            text = f"{self._task.question}{answer.text}\n\n{text}\n"
            return await self._statement(Need.VERBALIZED_2S, text)
        before = [*prompt.messages]
        said = answer.text
        if prompt.continue_final_message and isinstance(before[-1].get("content"), str):
            said = before.pop()["content"] + said
        before.append({"role": "assistant", "content": said})
        return await self._statement(Need.VERBALIZED_2S, text, before)

    async def _labels(self, need: Need, prompt: LabelPrompt) -> tuple[float, float]:
        def question() -> LabelQuestion:
            return self._task.framing.question(prompt.text, prompt.labels)

        backend = side_of(self._backend, self._task.sides.get(need, Side.ENGINE))
        with self._stages.stage(need):
            (found,) = await backend.labels([question], self._task.caller.at(need))
        self._stages.spend(need, found.num_tokens)
        first, second = found.logprobs.tolist()
        return first, second

    async def _statement(
        self, need: Need, text: str, before: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The model's own words; of a statement that was cut off, its whole lines."""
        (stated,) = await self._ask(need, text, before, max_tokens=STATEMENT_TOKENS)
        if stated.finish_reason == "length":
            return stated.text.rpartition("\n")[0]
        return stated.text

    async def _ask(
        self,
        need: Need,
        text: str,
        before: Sequence[Mapping[str, Any]] = (),
        *,
        n: int = 1,
        temperature: float = 0.0,
        max_tokens: int,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Answer, ...]:
        """Answers to a prompt of ours; of the client's options it takes over the seed alone."""
        seed = self._task.ask.options.get("seed")
        ask = Ask(
            self._task.framing.prompt(text, before),
            n=n,
            temperature=temperature,
            max_tokens=max_tokens,
            options={**(options or {}), "seed": seed},
        )
        # Nobody looks at these answers' rows.
        wanted = WantedRows(1, 0, statistics=self._task.statistics)
        with self._stages.stage(need):
            made = await self._backend.generate(ask, wanted, self._task.caller.at(need))
        self._stages.spend(need, made.prompt_tokens, made.completion_tokens)
        return made.answers
