"""An inquiry's way through this room: planned, prepared, gathered, estimated."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from conf_server.backends.base import Backend
from conf_server.backends.paired import Side, readers_of
from conf_server.concurrency import Cancelled, in_thread, raise_if
from conf_server.gathering.gather import Gathered, Gatherer
from conf_server.gathering.metered import Progress, Stages
from conf_server.gathering.plan import Plan, Planner
from conf_server.gathering.task import Inquiry, Task, prepare
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.base import Judge
from conf_server.settings import ConfidenceSettings
from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.fitted import Fitted


@dataclass(frozen=True)
class Outcome:
    """What became of an inquiry.

    Attributes:
        estimates: by method.
        unavailable: methods without an estimate, and why there is none.
        scored: methods whose estimate has taken anything from the scorer.
        stages: what the work has cost.
    """

    gathered: Gathered
    estimates: Mapping[str, Estimate]
    unavailable: Mapping[str, str]
    scored: frozenset[str]
    stages: Stages


@dataclass(frozen=True)
class Work:
    """An inquiry that was checked, and whose work can begin."""

    plan: Plan
    task: Task
    backend: Backend
    threads: ThreadPoolExecutor

    async def run(self, progress: Progress) -> Outcome:
        """Gather and estimate.

        Args:
            progress: called as stages begin and go on.

        Raises:
            RefusalError: the model refuses one of the questions.
        """
        start = time.perf_counter()
        stages = Stages(progress)
        gathered = await Gatherer(self.task, self.backend, stages).gather()
        began = time.perf_counter()
        estimates, unavailable = await in_thread(
            self.threads, partial(estimate_all, self.plan, gathered)
        )
        now = time.perf_counter()
        stages.seconds["estimates"] = round(now - began, 6)
        stages.seconds["total"] = round(now - start, 6)
        scored = frozenset(
            method.name
            for method in self.plan.methods
            if method.name in estimates and self.plan.side_of(method) is Side.SCORER
        )
        return Outcome(gathered, estimates, unavailable, scored, stages)


class Estimator:
    """Answers inquiries with a backend and judges."""

    def __init__(
        self,
        backend: Backend,
        judges: Mapping[str, Judge],
        settings: ConfidenceSettings,
        *,
        fitted: Fitted | None = None,
        head: UncertaintyHead | None = None,
    ) -> None:
        """
        Args:
            fitted: what a fit has learned of this model; None without one.
            head: trained to judge this model's answers; None without one.
        """
        self.fitted = fitted
        self._head = head
        self._backend = backend
        self._judges = judges
        self._settings = settings
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="estimates")

    @property
    def similarities(self) -> list[str]:
        """Names of the judges that there are."""
        return sorted(self._judges)

    def planner(self) -> Planner:
        """What can be done now; adapters that are loaded later may change it."""
        return Planner(
            self._backend.limits(),
            self._judges,
            readers=readers_of(self._backend),
            fitted=self.fitted,
            head=self._head,
        )

    async def prepare(self, inquiry: Inquiry, *, check: bool = False) -> Work:
        """Plan an inquiry and check it whole; no work is done yet.

        Args:
            check: also refuse what the model would refuse when the answers are generated.

        Raises:
            RefusalError: naming the field.
        """
        plan = self.planner().plan(inquiry)
        task = await prepare(
            inquiry,
            plan,
            self._backend,
            self._judges,
            self._settings,
            fitted=self.fitted,
            head=self._head,
            check=check,
        )
        return Work(plan, task, self._backend, self._threads)


def estimate_all(
    plan: Plan, gathered: Gathered, cancelled: Cancelled
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Estimates by method, and of the other methods why there is none.

    Raises:
        CancelledError: `cancelled` turned true between two methods.
    """
    estimates, unavailable = {}, dict(plan.unavailable)
    for method in plan.methods:
        raise_if(cancelled)
        reasons = [gathered.missing[need] for need in method.needs & gathered.missing.keys()]
        if reasons:
            unavailable[method.name] = reasons[0]
        else:
            found = method.estimate(gathered.evidence)
            whole = not method.needs & gathered.inexact
            estimates[method.name] = replace(found, exact=found.exact and whole)
    return estimates, unavailable
