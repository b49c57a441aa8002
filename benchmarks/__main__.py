"""What confidence costs, measured side by side on this machine: see `plan.DESCRIPTION`."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from benchmarks import (
    backends_table,
    chat_cost,
    concurrency_cost,
    model_shapes,
    scoring_cost,
    states_cost,
    uncertainty_cost,
    worker_kernels,
)
from benchmarks.load_client import Client
from benchmarks.plan import EMBEDDED, Plan, arguments, planned
from benchmarks.results import Report
from benchmarks.servers import Server, ServerError, running
from benchmarks.transformers_forward import TransformersProcess, transformers_process


class Measurement:
    """The tables of a plan that need servers, one after the other.

    The results of each table are on disk before the next one begins.
    """

    def __init__(
        self,
        plan: Plan,
        servers: dict[str, Server],
        reference: TransformersProcess | None,
        report: Report,
        path: Path,
    ) -> None:
        self._plan = plan
        self._servers = servers
        self._reference = reference
        self._report = report
        self._path = path

    async def run(self) -> None:
        plan, report = self._plan, self._report
        tables = {1: self._chat, 2: self._score, 3: self._concurrency, 4: self._uncertainty}
        bar = tqdm(total=plan.steps, unit="sample", dynamic_ncols=True, smoothing=0.05)
        with bar:
            async with Client() as client:
                if plan.tables & {1, 3}:
                    bar.set_postfix_str("warming up")
                    await chat_cost.warm_up(
                        client, self._servers, plan.concurrency, plan.max_tokens
                    )
                for table in sorted(plan.tables & tables.keys()):
                    await tables[table](client, bar)
                    report.write_json(self._path)

    async def _chat(self, client: Client, bar: tqdm) -> None:
        self._report.chat = await chat_cost.run(
            client,
            self._servers,
            bar,
            rounds=self._plan.rounds,
            concurrency=self._plan.concurrency,
            max_tokens=self._plan.max_tokens,
        )

    async def _score(self, client: Client, bar: tqdm) -> None:
        table = scoring_cost.Scoring(client, self._servers, self._reference, self._plan.case)
        await table.run(bar, self._plan.few)
        self._report.score = table.results
        self._report.score_difference = table.difference

    async def _concurrency(self, client: Client, bar: tqdm) -> None:
        self._report.concurrency = await concurrency_cost.run(
            client,
            self._servers,
            bar,
            rounds=self._plan.few,
            concurrencies=self._plan.concurrencies,
            max_tokens=self._plan.max_tokens,
        )
        self._report.summary_us = concurrency_cost.summary_us()

    async def _uncertainty(self, client: Client, bar: tqdm) -> None:
        self._report.uncertainty = await uncertainty_cost.run(
            client,
            self._servers,
            bar,
            rounds=self._plan.rounds,
            max_tokens=self._plan.max_tokens,
        )
        self._report.estimator_us = uncertainty_cost.estimator_us()


def measure(plan: Plan, report: Report, path: Path) -> None:
    """Start what the plan needs, run it, and leave no process behind."""
    logs = path.parent / "logs"
    if plan.shape:
        model_shapes.write_shape(plan.shape, EMBEDDED, Path(plan.model))
    if 5 in plan.tables:  # before the servers, which would share the cores or the GPU
        print("Timing the workers' kernels", file=sys.stderr, flush=True)
        report.kernels = worker_kernels.measure(*plan.kernel_flags)
        report.write_json(path)
    if 6 in plan.tables:
        report.states = states_cost.measure(
            plan.model,
            plan.server_flags,
            logs,
            rounds=plan.rounds,
            case=plan.states_case,
            beside=plan.transformers,
        )
        report.write_json(path)
    if 7 in plan.tables and plan.transformers:
        # The tests hold the three against each other; a trial shows that the table can be made.
        few = report.trial
        setups = backends_table.SETUPS[-1:] if few else backends_table.SETUPS
        report.backends = {
            setup.name: backends_table.measure(
                setup, plan.model, logs, 1 if few else backends_table.REQUESTS
            )
            for setup in setups
        }
        report.write_json(path)
    if not plan.servers:
        return
    print(f"Starting {', '.join(plan.servers)}; logs in {logs}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        servers = stack.enter_context(running(plan.servers, plan.model, plan.server_flags, logs))
        reference = None
        if 2 in plan.tables and plan.transformers:
            reference = stack.enter_context(transformers_process(plan.model, logs))
        asyncio.run(Measurement(plan, servers, reference, report, path).run())


def _terminated(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # A second signal must not cut the cleaning up short.
    sys.exit(128 + signum)


def main() -> None:
    given = arguments()
    plan = planned(given)
    report = Report(plan.plain(), trial=given.quick)
    signal.signal(signal.SIGTERM, _terminated)  # so that the servers end with us
    try:
        measure(plan, report, given.json)
    except (ServerError, model_shapes.ShapeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.markdown())
    print(f"\nRaw samples: {given.json}", file=sys.stderr)
    if given.plot:
        from benchmarks import results_plot

        results_plot.write(report, given.plot)
        print(f"Plot: {given.plot}", file=sys.stderr)


if __name__ == "__main__":
    main()
