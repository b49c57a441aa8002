"""What a run of the benchmarks measures, as its command line says."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import chat_cost, concurrency_cost, scoring_cost, uncertainty_cost
from benchmarks.model_shapes import SHAPES
from benchmarks.servers import CONF, OLD, ROOT, STOCK, runs_on_cuda

DESCRIPTION = """What confidence costs, measured side by side on this machine.

Starts conf-server, a stock vLLM server and one patched as the old plugin was, all with the
same model and flags, and sends each the same work in turn. Ratios are within a round, figures
are medians over the rounds."""

EMBEDDED = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
OUT = ROOT / "build" / "bench"
# A context each: several texts of one context would share it in the prefix cache.
STATES_CASE = scoring_cost.Case(contexts=8, context_tokens=400, completions=8)
STATES_QUICK = scoring_cost.Case(contexts=2, context_tokens=100, completions=2)
TABLES = {
    1: "chat",
    2: "scoring",
    3: "concurrency",
    4: "uncertainty",
    5: "kernels",
    6: "states",
    7: "backends",
}


@dataclass(frozen=True)
class Machine:
    """What is usual on a kind of machine.

    Attributes:
        flags: each server's. Three of them share the memory.
        concurrency: requests at a time in table 1.
        concurrencies: those of table 3.
    """

    flags: str
    concurrency: int
    concurrencies: tuple[int, ...]


CPU = Machine(
    "--dtype=float32 --enforce-eager --kv-cache-memory-bytes=1G --max-model-len=4096",
    32,
    (1, 8, 64),
)
CUDA = Machine(
    "--dtype=bfloat16 --gpu-memory-utilization=0.28 --max-model-len=4096 --max-num-seqs=256",
    256,
    (1, 8, 64, 256),
)


@dataclass(frozen=True)
class Plan:
    """How much is measured, and of what."""

    model: str
    shape: str | None
    server_flags: tuple[str, ...]
    tables: frozenset[int]
    rounds: int
    concurrency: int
    max_tokens: int
    concurrencies: tuple[int, ...]
    case: scoring_cost.Case
    states_case: scoring_cost.Case
    transformers: bool
    kernel_flags: tuple[str, ...]

    @property
    def few(self) -> int:
        """Rounds of the slow tables."""
        return max(1, self.rounds // 2)

    @property
    def servers(self) -> list[str]:
        if 1 in self.tables:
            return [CONF, STOCK, OLD]
        if self.tables & {2, 3}:
            return [CONF, STOCK]
        return [CONF] if 4 in self.tables else []

    @property
    def steps(self) -> int:
        """How many samples the servers are asked for in all."""
        each = {
            1: chat_cost.steps(self.rounds),
            2: scoring_cost.steps(self.few, self.transformers),
            3: concurrency_cost.steps(self.few, self.concurrencies),
            4: uncertainty_cost.steps(self.rounds),
        }
        return sum(each.get(table, 0) for table in self.tables)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self) | {"tables": sorted(self.tables)}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; None takes this process's."""
    machine = CUDA if runs_on_cuda() else CPU
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help="folder or name (default: the embedded model)")
    add(
        "--shape",
        choices=SHAPES,
        help="a model of this size without weights, in place of --model:\n"
        "its texts are nonsense, its times are not",
    )
    names = ", ".join(f"{number} {name}" for number, name in TABLES.items())
    add("--tables", default=",".join(map(str, TABLES)), help=f"{names} (default: all)")
    add(
        "--rounds",
        type=int,
        default=5,
        help="of tables 1, 4 and 6 (default: 5); half as many of 2 and 3",
    )
    add(
        "--concurrency",
        type=int,
        default=machine.concurrency,
        help="requests at a time in table 1 (default here: %(default)s)",
    )
    add(
        "--concurrencies",
        default=",".join(map(str, machine.concurrencies)),
        help="of table 3 (default here: %(default)s)",
    )
    add("--max-tokens", type=int, default=64, help="tokens of an answer (default: 64)")
    add("--quick", action="store_true", help="one small round: does it all work?")
    add("--json", type=Path, default=OUT / "results.json", help="where raw samples go")
    add("--plot", type=Path, help="default: beside the JSON; none with --quick")
    add("--no-transformers", action="store_true", help="leave its forward passes out")
    add("--server-args", default="", help=f"more flags for each server, after\n{machine.flags}")
    given = parser.parse_args(argv)
    if not set(given.tables.split(",")) <= set(map(str, TABLES)):
        parser.error(f"--tables takes {', '.join(map(str, TABLES))}, with commas")
    if min(given.rounds, given.concurrency, given.max_tokens) < 1:
        parser.error("--rounds, --concurrency and --max-tokens must be positive")
    if given.shape and given.model:
        parser.error("--shape takes the place of --model")
    if given.plot is None and not given.quick:
        given.plot = given.json.with_suffix(".png")
    if given.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("the plot needs matplotlib: pip install 'conf-server[bench]'")
    given.machine_flags = machine.flags
    return given


def planned(given: argparse.Namespace) -> Plan:
    """Make a plan of parsed arguments."""
    flags = [*given.machine_flags.split(), *shlex.split(given.server_args)]
    model = given.model or str(EMBEDDED)
    if given.shape:
        model = str(OUT / "models" / given.shape)
        flags.insert(0, "--load-format=dummy")
    return Plan(
        model=model,
        shape=given.shape,
        server_flags=tuple(flags),
        tables=frozenset(int(number) for number in given.tables.split(",")),
        rounds=1 if given.quick else given.rounds,
        concurrency=4 if given.quick else given.concurrency,
        max_tokens=8 if given.quick else given.max_tokens,
        concurrencies=(1, 4) if given.quick else _numbers(given.concurrencies),
        case=scoring_cost.QUICK if given.quick else scoring_cost.Case(),
        states_case=STATES_QUICK if given.quick else STATES_CASE,
        # A shape has no weights that transformers could load.
        transformers=not given.no_transformers and given.shape is None,
        kernel_flags=("--rows=1,8", "--rounds=3", "--vocab=49152") if given.quick else (),
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
