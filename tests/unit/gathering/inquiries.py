"""Inquiries of the dummy backend, from the names of methods to their estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf_server.backends.base import Ask, Caller, Chat, Completion, Prompt
from conf_server.backends.dummy import DummyBackend
from conf_server.concurrency import never
from conf_server.gathering.gather import Gathered, Gatherer, estimate_all
from conf_server.gathering.metered import Stages
from conf_server.gathering.plan import Plan, Planner
from conf_server.gathering.task import Inquiry, prepare
from conf_server.judges.models import all_judges
from conf_server.settings import ConfidenceSettings
from conf_server.uncertainty.estimate import Estimate

QUESTION = "What is the capital of France?"
CHAT = Chat(({"role": "user", "content": QUESTION},))


@dataclass(frozen=True)
class Outcome:
    """What became of an inquiry."""

    plan: Plan
    gathered: Gathered
    estimates: dict[str, Estimate]
    unavailable: dict[str, str]
    stages: Stages
    progress: list[tuple[str, int, int]]


async def inquire(
    backend: DummyBackend,
    methods: Sequence[str],
    *,
    prompt: Prompt = CHAT,
    answer: Completion | None = None,
    samples: Sequence[Completion] = (),
    similarity: str | None = None,
    n_samples: int = 2,
    settings: ConfidenceSettings | None = None,
    check: bool = False,
    **ask: Any,
) -> Outcome:
    """Plan, prepare, gather and estimate."""
    settings = settings or ConfidenceSettings()
    judges = all_judges(backend, {})
    plan = Planner(backend.limits(), judges).plan(
        methods, similarity, len(samples) or n_samples, prompt
    )
    inquiry = Inquiry(
        Ask(prompt, temperature=1.0, **ask),
        Caller("request"),
        length_field="max_tokens" if "max_tokens" in ask else None,
        answer=answer,
        samples=tuple(samples),
    )
    task = await prepare(inquiry, plan, backend, judges, settings, check=check)
    progress: list[tuple[str, int, int]] = []
    stages = Stages(lambda *step: progress.append(step))
    gathered = await Gatherer(task, backend, stages).gather()
    estimates, unavailable = estimate_all(plan, gathered, never)
    return Outcome(plan, gathered, estimates, unavailable, stages, progress)
