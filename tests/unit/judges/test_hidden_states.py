"""The served model as a judge by its hidden states, with states that the dummy makes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from conf_server.backends.base import Caller, ForcingJob, Framing
from conf_server.backends.dummy import DummyBackend
from conf_server.judges.base import JudgeContext, Pair
from conf_server.judges.hidden_states import BATCH, HiddenStatesJudge
from conf_server.judges.models import all_judges
from conf_server.stats.forced import ForcedStates, WantedStates

DIRECTIONS = {"east": (2, 0, 0), "north": (0, 5, 0), "west": (-1, 0, 0), "north east": (1, 1, 0)}


@dataclass
class Backend(DummyBackend):
    """Of a text it has one vector, whatever its words are elsewhere."""

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        await super().states(jobs, wanted, caller)
        texts = [self.text_of(job.text.token_ids) for job in jobs]
        vectors = [np.array(DIRECTIONS.get(text, (0, 0, 1)), np.float32) for text in texts]
        return [ForcedStates(vector[None, None], 0) for vector in vectors]


def context() -> JudgeContext:
    return JudgeContext("Where?", Framing(False), Caller("request"))


async def entailments(pairs: Sequence[Pair], backend: Backend, notes: JudgeContext) -> list[float]:
    verdicts = await HiddenStatesJudge(backend).judge(pairs, notes)
    np.testing.assert_allclose(verdicts.sum(axis=1), 1)
    found: list[float] = verdicts[:, 0].tolist()
    return found


def backend() -> Backend:
    return Backend(lambda prompt, number: "")


async def test_a_similarity_is_the_cosine_and_never_below_zero() -> None:
    pairs = [("east", "east"), ("east", "north"), ("east", "west"), ("east", "north east")]
    model, notes = backend(), context()
    found = await entailments(pairs, model, notes)
    np.testing.assert_allclose(found, [1, 0, 0, 0.5**0.5], rtol=1e-6, atol=1e-12)
    ((_, _, wanted),) = model.asked
    assert wanted == WantedStates((2,), "mean")
    assert notes.notes.prompt_tokens == 5


async def test_an_empty_text_is_like_no_other_and_is_not_asked_about() -> None:
    assert await entailments([("", "east")], backend(), context()) == [0]


async def test_many_texts_come_in_turns() -> None:
    model = backend()
    pairs = [("east", f"word{i}") for i in range(BATCH)]
    assert await entailments(pairs, model, context()) == [0] * BATCH
    assert len(model.asked) == 2


def test_it_is_there_where_hidden_states_are() -> None:
    assert "hidden_states" in all_judges(backend(), {})
    without = Backend(lambda prompt, number: "", replace(backend().known, states="they are off"))
    assert "hidden_states" not in all_judges(without, {})
