"""Whether a server's memory grows under a steady load, beside that of stock vLLM.

Starts stock vLLM and conf-server with the same model and flags, and sends them the same
requests: chats with and without log-probabilities, streams, completions, clients that hang
up. A second conf-server gets requests that only it answers as well: confidence, scores,
estimates of uncertainty. For each process it prints what memory it holds and how much is added.

The servers are up together and are loaded in turns. Each then has all cores while it works,
as a server of its own would, and an interrupted run has still asked all of them the same.
Loaded at the same time they would fight for the cores that vLLM binds its threads to.
Slopes are per 1,000 requests first of all, since memory grows by requests and not by time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import aiohttp
import psutil
from tqdm import tqdm

from benchmarks.memory import MB, Growth, Memory, growth, measured
from benchmarks.servers import CONF, ROOT, STOCK, Server, ServerError, running
from benchmarks.soak_requests import KINDS, STOCK_KINDS, Request, requests

EMBEDDED = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
FLAGS = "--dtype=float32 --enforce-eager --kv-cache-memory-bytes=1G --max-model-len=2048"
OUT = ROOT / "build" / "soak"
SAMPLE_EVERY_S = 2.0

SAME, OURS = "same", "ours"
SERVERS = {"stock": STOCK, SAME: CONF, OURS: CONF}
HEADINGS = {
    "stock": "stock vLLM",
    SAME: "conf-server, the same requests",
    OURS: "conf-server, all kinds of requests",
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=str(EMBEDDED), help="folder or name (default: the embedded model)")
    add("--minutes", type=float, default=30, help="of load, over all servers (default: 30)")
    add("--concurrency", type=int, default=16, help="requests at a time (default: 16)")
    add("--turn", type=int, default=200, help="requests before the next server's turn (200)")
    add("--blocks", type=int, default=40, help="of the KV cache, for each server (default: 40)")
    add(
        "--only",
        choices=tuple(SERVERS),
        help=f"one server: stock, {SAME} (conf-server with stock's requests) or {OURS}",
    )
    add(
        "--kinds",
        type=lambda names: names.split(","),
        help=f"what `{OURS}` is sent, with commas (default: all kinds):\n{', '.join(KINDS)}",
    )
    add("--seed", type=int, default=1, help="other requests (default: 1)")
    add("--json", type=Path, default=OUT / "samples.json", help="where the samples go")
    add("--server-args", default="", help=f"more flags for each server, after\n{FLAGS}")
    given = parser.parse_args(argv)
    if not set(given.kinds or ()) <= set(KINDS):
        parser.error(f"--kinds takes {', '.join(KINDS)}")
    if min(given.minutes, given.concurrency, given.turn, given.blocks) <= 0:
        parser.error("--minutes, --concurrency, --turn and --blocks must be positive")
    return given


class Soak:
    """One server under load, and what its processes hold meanwhile."""

    def __init__(self, name: str, server: Server, load: Iterator[Request]) -> None:
        self.name = name
        self.samples: list[Memory] = []
        self.answered: Counter[str] = Counter()
        self._server = server
        self._load = load
        self._ended = 0
        self._seconds = 0.0

    def sample(self, seconds: float) -> None:
        """Note what the processes hold, at so many seconds under load."""
        try:
            self.samples += measured(self._server.processes, self._ended, seconds)
        except psutil.NoSuchProcess as error:
            raise ServerError(f"{error}\n{self._server.log_tail()}") from error

    async def turn(self, count: int, concurrency: int) -> None:
        """Send `count` requests, `concurrency` at a time."""
        begun = time.perf_counter()
        part = itertools.islice(self._load, count)
        sampler = asyncio.create_task(self._sample_until_cancelled(begun))
        try:
            async with (
                aiohttp.ClientSession(
                    self._server.url, connector=aiohttp.TCPConnector(limit=0)
                ) as session,
                asyncio.TaskGroup() as clients,
            ):
                for _ in range(concurrency):
                    clients.create_task(self._client(session, part))
        except* (aiohttp.ClientError, ServerError) as errors:
            raise ServerError(f"{errors.exceptions[0]!r}\n{self._server.log_tail()}") from errors
        finally:
            sampler.cancel()
        self._seconds += time.perf_counter() - begun
        self.sample(self._seconds)

    async def _sample_until_cancelled(self, begun: float) -> None:
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            self.sample(self._seconds + time.perf_counter() - begun)

    async def _client(self, session: aiohttp.ClientSession, load: Iterator[Request]) -> None:
        for request in load:
            try:
                async with asyncio.timeout(request.leaves_after_s):
                    await self._send(session, request)
                self.answered[request.kind] += 1
            except TimeoutError:  # which closes the connection
                pass
            self._ended += 1

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        headers = {"Content-Type": "application/json"}
        async with session.post(request.path, data=request.body, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise ServerError(f"{request.kind}: {response.status} {answer[:500]!r}")


async def soak(soaks: Sequence[Soak], given: argparse.Namespace) -> None:
    """Load the servers in turns until the time is over."""
    for each in soaks:
        each.sample(0.0)
    end = time.monotonic() + 60 * given.minutes
    with tqdm(unit=" requests", dynamic_ncols=True) as bar:
        while time.monotonic() < end:
            for each in soaks:
                bar.set_postfix_str(each.name)
                await each.turn(given.turn, given.concurrency)
                bar.update(given.turn)


def table(soaks: Sequence[Soak]) -> str:
    """Markdown: each process of each server, a row."""
    heads = (
        "server | process | USS MB | RSS MB | MB/1,000 requests, first half | second half | "
        "MB/minute | level?"
    )
    lines = [f"| {heads} |", "|---|---|---|---|---:|---:|---:|---|"]
    for each in soaks:
        for role, found in growth(each.samples).items():
            lines.append(f"| {HEADINGS[each.name]} | {role} | {_cells(found)} |")
    return "\n".join(lines)


def _cells(found: Growth) -> str:
    start, end = found.start, found.end
    level = "yes" if found.is_level else f"no: +{found.added:.0f} MB in the second half"
    return " | ".join(
        (
            f"{start.uss / MB:,.0f} to {end.uss / MB:,.0f}",
            f"{start.rss / MB:,.0f} to {end.rss / MB:,.0f}",
            f"{found.first_half:+,.1f}",
            f"{found.second_half:+,.1f}",
            f"{found.per_minute:+,.2f}",
            level,
        )
    )


def write_json(path: Path, soaks: Sequence[Soak]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({each.name: [asdict(s) for s in each.samples] for each in soaks}))


def measure(given: argparse.Namespace) -> list[Soak]:
    """Start the servers, load them, stop them; what was measured until an interruption counts."""
    names = [given.only] if given.only else list(SERVERS)
    flags = [*FLAGS.split(), f"--num-gpu-blocks-override={given.blocks}"]
    flags += given.server_args.split()
    soaks = []
    with ExitStack() as servers:
        for name in names:
            kind, logs = SERVERS[name], given.json.parent / name
            server = servers.enter_context(running([kind], given.model, flags, logs))[kind]
            kinds = (given.kinds or list(KINDS)) if name == OURS else STOCK_KINDS
            soaks.append(Soak(name, server, requests(kinds, given.seed)))
        try:
            asyncio.run(soak(soaks, given))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        finally:
            write_json(given.json, soaks)
    return soaks


def _terminated(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # once is enough; cleaning up shall not be cut short
    raise KeyboardInterrupt


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, _terminated)  # so that the servers end with us
    try:
        soaks = measure(given)
    except ServerError as error:
        sys.exit(str(error))
    print(table(soaks))
    for each in soaks:
        last = each.samples[-1]
        print(
            f"\n{HEADINGS[each.name]}: {last.requests:,} requests in {last.seconds:,.0f} s; "
            f"answered {', '.join(f'{n} {kind}' for kind, n in each.answered.items())}."
        )
    print(f"\nSamples: {given.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
