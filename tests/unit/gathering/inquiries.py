"""Inquiries of the dummy backend, from the names of methods to their estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf_server.backends.base import Ask, Backend, Caller, Chat, Completion, Prompt
from conf_server.backends.paired import Side
from conf_server.gathering.estimation import Estimator, Outcome
from conf_server.gathering.inquiry import Inquiry, Relevance
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.models import all_judges
from conf_server.settings import ConfidenceSettings
from conf_server.uncertainty.fitted import Fitted

QUESTION = "What is the capital of France?"
CHAT = Chat(({"role": "user", "content": QUESTION},))


@dataclass(frozen=True)
class Answered:
    """What became of an inquiry, and how its progress was told."""

    outcome: Outcome
    progress: list[tuple[str, int, int]]


def inquiry(
    methods: Sequence[str],
    *,
    prompt: Prompt = CHAT,
    answer: Completion | None = None,
    samples: Sequence[Completion] = (),
    similarity: str | None = None,
    n_samples: int = 2,
    relevance: Relevance = "with_question",
    rauq_alpha: float | None = None,
    only: Side | None = None,
    **ask: Any,
) -> Inquiry:
    return Inquiry(
        Ask(prompt, temperature=1.0, **ask),
        Caller("request"),
        tuple(methods),
        n_samples,
        similarity,
        relevance,
        rauq_alpha,
        only,
        length_field="max_tokens" if "max_tokens" in ask else None,
        answer=answer,
        samples=tuple(samples),
    )


async def inquire(
    backend: Backend,
    methods: Sequence[str],
    *,
    settings: ConfidenceSettings | None = None,
    fitted: Fitted | None = None,
    head: UncertaintyHead | None = None,
    check: bool = False,
    **asked: Any,
) -> Answered:
    """Plan, prepare, gather and estimate."""
    settings = settings or ConfidenceSettings()
    judges = all_judges(backend, {})
    estimator = Estimator(backend, judges, settings, fitted=fitted, head=head)
    work = await estimator.prepare(inquiry(methods, **asked), check=check)
    progress: list[tuple[str, int, int]] = []
    return Answered(await work.run(lambda *step: progress.append(step)), progress)
