"""What confidence costs, measured side by side on this machine.

Starts conf-server, a stock vLLM server and one patched as the old plugin was, all with the
same model and flags, and sends each the same work in turn. Ratios are within a round, figures
are medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import shlex
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from benchmarks import chat, estimators, scaling, scoring
from benchmarks.load import Client
from benchmarks.report import Report
from benchmarks.servers import CONF, OLD, ROOT, STOCK, Server, ServerError, running
from benchmarks.transformers_forward import TransformersProcess, transformers_process

EMBEDDED = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
FLAGS = "--dtype=float32 --enforce-eager --gpu-memory-utilization=0.1 --max-model-len=4096"
OUT = ROOT / "build" / "bench"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    tables: frozenset[int]
    rounds: int
    concurrency: int
    max_tokens: int
    concurrencies: tuple[int, ...]
    case: scoring.Case
    transformers: bool

    @property
    def few(self) -> int:
        """Rounds of the slow tables."""
        return max(1, self.rounds // 2)

    @property
    def servers(self) -> list[str]:
        if 1 in self.tables:
            return [CONF, STOCK, OLD]
        return [CONF, STOCK] if self.tables & {2, 3} else [CONF]

    @property
    def steps(self) -> int:
        """Samples in all."""
        each = {
            1: chat.steps(self.rounds),
            2: scoring.steps(self.few, self.transformers),
            3: scaling.steps(self.few, self.concurrencies),
            4: estimators.steps(self.rounds),
        }
        return sum(each[table] for table in self.tables)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=str(EMBEDDED), help="folder or name (default: the embedded model)")
    add("--tables", default="1,2,3,4", help="1 chat, 2 scoring, 3 scaling, 4 uncertainty")
    add(
        "--rounds",
        type=int,
        default=5,
        help="of tables 1 and 4 (default: 5); half as many of 2 and 3",
    )
    add("--concurrency", type=int, default=32, help="requests at a time in table 1 (default: 32)")
    add("--concurrencies", default="1,8,64", help="of table 3 (default: 1,8,64)")
    add("--max-tokens", type=int, default=64, help="tokens of an answer (default: 64)")
    add("--quick", action="store_true", help="one small round: does it all work?")
    add("--json", type=Path, default=OUT / "results.json", help="where raw samples go")
    add("--plot", type=Path, help="default: beside the JSON; none with --quick")
    add("--no-transformers", action="store_true", help="leave its forward pass out of table 2")
    add("--server-args", default="", help=f"more flags for each server, after\n{FLAGS}")
    given = parser.parse_args()
    if not set(given.tables.split(",")) <= {"1", "2", "3", "4"}:
        parser.error("--tables takes 1, 2, 3 and 4, with commas")
    if min(given.rounds, given.concurrency, given.max_tokens) < 1:
        parser.error("--rounds, --concurrency and --max-tokens must be positive")
    if given.plot is None and not given.quick:
        given.plot = given.json.with_suffix(".png")
    if given.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("the plot needs matplotlib: pip install 'conf-server[bench]'")
    return given


def planned(given: argparse.Namespace) -> Plan:
    tables = frozenset(int(number) for number in given.tables.split(","))
    transformers = not given.no_transformers
    if given.quick:
        case = scoring.Case(contexts=2, context_tokens=200, completions=4)
        return Plan(tables, 1, 4, 8, (1, 4), case, transformers)
    return Plan(
        tables,
        given.rounds,
        given.concurrency,
        given.max_tokens,
        tuple(int(number) for number in given.concurrencies.split(",")),
        scoring.Case(),
        transformers,
    )


class Measurement:
    """The tables of a plan, one after the other; what is done is on disk before the next."""

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
        tables = {1: self._chat, 2: self._score, 3: self._scaling, 4: self._uncertainty}
        bar = tqdm(total=plan.steps, unit="sample", dynamic_ncols=True, smoothing=0.05)
        with bar:
            async with Client() as client:
                if plan.tables & {1, 3}:
                    bar.set_postfix_str("warming up")
                    await chat.warm_up(client, self._servers, plan.concurrency)
                for table in sorted(plan.tables):
                    await tables[table](client, bar)
                    report.write_json(self._path)

    async def _chat(self, client: Client, bar: tqdm) -> None:
        self._report.chat = await chat.run(
            client,
            self._servers,
            bar,
            rounds=self._plan.rounds,
            concurrency=self._plan.concurrency,
            max_tokens=self._plan.max_tokens,
        )

    async def _score(self, client: Client, bar: tqdm) -> None:
        table = scoring.Scoring(client, self._servers, self._reference, self._plan.case)
        await table.run(bar, self._plan.few)
        self._report.score = table.results
        self._report.score_difference = table.difference

    async def _scaling(self, client: Client, bar: tqdm) -> None:
        self._report.concurrency = await scaling.run(
            client,
            self._servers,
            bar,
            rounds=self._plan.few,
            concurrencies=self._plan.concurrencies,
            max_tokens=self._plan.max_tokens,
        )
        self._report.summary_us = scaling.summary_us()

    async def _uncertainty(self, client: Client, bar: tqdm) -> None:
        self._report.uncertainty = await estimators.run(
            client,
            self._servers,
            bar,
            rounds=self._plan.rounds,
            max_tokens=self._plan.max_tokens,
        )
        self._report.estimator_us = estimators.estimator_us()


def measure(given: argparse.Namespace) -> Report:
    """Start what the plan needs, run it, and leave no process behind."""
    plan = planned(given)
    options = {"model": given.model, "server_args": given.server_args} | _plain(plan)
    report = Report(options, trial=given.quick)
    flags = [*FLAGS.split(), *shlex.split(given.server_args)]
    logs = given.json.parent / "logs"
    print(f"Starting {', '.join(plan.servers)}; logs in {logs}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        servers = stack.enter_context(running(plan.servers, given.model, flags, logs))
        reference = None
        if 2 in plan.tables and plan.transformers:
            reference = stack.enter_context(transformers_process(given.model, logs))
        asyncio.run(Measurement(plan, servers, reference, report, given.json).run())
    return report


def _plain(plan: Plan) -> dict[str, Any]:
    return asdict(plan) | {"tables": sorted(plan.tables)}


def _terminated(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # once is enough; cleaning up shall not be cut short
    sys.exit(128 + signum)


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, _terminated)  # so that the servers end with us
    try:
        report = measure(given)
    except ServerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.markdown())
    print(f"\nRaw samples: {given.json}", file=sys.stderr)
    if given.plot:
        from benchmarks import plot

        plot.write(report, given.plot)
        print(f"Plot: {given.plot}", file=sys.stderr)


if __name__ == "__main__":
    main()
