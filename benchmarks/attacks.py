"""Whether one client can knock a server over: each attack beside an honest client.

Starts conf-server, sends it each attack, and meanwhile asks it for its version every few
milliseconds: the answer needs nothing but the event loop, so its delay is the loop's lag. After
each attack nothing may be left in the engine. At the end the server gets SIGTERM in the midst of
its work, and every client that is cut off has to hear it.

Exits with 1 where a bound is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
import psutil

from benchmarks.attack_requests import ATTACKS, CHAT, Attack
from benchmarks.servers import CONF, ROOT, Server, ServerError, running
from conf_server.server_process import HOST

EMBEDDED = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
FLAGS = "--dtype=float32 --enforce-eager --kv-cache-memory-bytes=1G --max-model-len=2048"
OUT = ROOT / "build" / "attacks"
PROBE_EVERY_S: Final = 0.01
IDLE_TIMEOUT_S: Final = 120
DRAIN_S: Final = 3
CUT_OFF: Final = 40
MB: Final = 1e6


@dataclass(frozen=True)
class Bounds:
    """What an attack may do.

    Attributes:
        lag_ms: the 99th percentile of the event loop's lag.
        memory_mb: growth of the API process over what it had before the attack.
        answer_bytes: of an error.
    """

    lag_ms: float
    memory_mb: float
    answer_bytes: int = 10_000


@dataclass
class Result:
    """What an attack did.

    Attributes:
        statuses: how many answers had each status; `left` where clients left.
        lags_ms: the event loop's lag at each probe.
        memory_mb: growth of the API process at its highest.
        error_bytes: of the longest answer that was an error.
        is_idle: whether nothing was left in the engine afterwards.
    """

    name: str
    statuses: dict[str, int]
    lags_ms: list[float]
    memory_mb: float
    error_bytes: int
    is_idle: bool

    def broken(self, attack: Attack, bounds: Bounds) -> list[str]:
        """The bounds that were not kept."""
        found = []
        if wrong := set(self.statuses) - {"left", *map(str, attack.statuses)}:
            found.append(f"answered {', '.join(sorted(wrong))}")
        if np.percentile(self.lags_ms, 99) > bounds.lag_ms:
            found.append(f"a lag of more than {bounds.lag_ms:g} ms")
        if self.memory_mb > bounds.memory_mb:
            found.append(f"more than {bounds.memory_mb:g} MB")
        if self.error_bytes > bounds.answer_bytes:
            found.append(f"an error of {self.error_bytes} bytes")
        if not self.is_idle:
            found.append("work is left in the engine")
        return found


class Attacker:
    """Sends attacks to one server, and watches it meanwhile."""

    def __init__(self, session: aiohttp.ClientSession, port: int, pid: int) -> None:
        """
        Args:
            port: of the server that the session asks.
            pid: of its API process.
        """
        self._session = session
        self._port = port
        self._api = psutil.Process(pid)

    async def run(self, attack: Attack) -> Result:
        result = Result(attack.name, {}, [], 0.0, 0, is_idle=False)
        over = threading.Event()
        # In a thread: this process sends and reads megabytes, and the lag is not to be its own.
        probe = asyncio.create_task(asyncio.to_thread(self._watch, result, over))
        await asyncio.sleep(0.3)
        await asyncio.gather(*(self._send(result, attack, *one) for one in attack.requests))
        over.set()
        await probe
        result.is_idle = await self._is_idle()
        return result

    def _watch(self, result: Result, over: threading.Event) -> None:
        before = self._api.memory_info().rss
        connection = http.client.HTTPConnection(HOST, self._port)
        while not over.wait(PROBE_EVERY_S):
            began = time.perf_counter()
            connection.request("GET", "/version")
            connection.getresponse().read()
            result.lags_ms.append(1000 * (time.perf_counter() - began))
            grown = (self._api.memory_info().rss - before) / MB
            result.memory_mb = max(result.memory_mb, grown)
        connection.close()

    async def _send(self, result: Result, attack: Attack, path: str, body: bytes) -> None:
        status = "left"
        try:
            async with (
                asyncio.timeout(attack.leave_s),
                self._session.post(
                    path, data=body, headers={"Content-Type": "application/json"}
                ) as answer,
            ):
                size = len(await answer.read())
                status = str(answer.status)
                if answer.status >= 400:
                    result.error_bytes = max(result.error_bytes, size)
        except TimeoutError:
            pass
        except aiohttp.ClientConnectionError:
            # The rest of a body that is refused is not read.
            status = "413" if 413 in attack.statuses else "broken"
        result.statuses[status] = result.statuses.get(status, 0) + 1

    async def _is_idle(self) -> bool:
        end = time.monotonic() + IDLE_TIMEOUT_S
        while time.monotonic() < end:
            async with self._session.get("/metrics") as answer:
                lines = (await answer.text()).splitlines()
            unfinished = [
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting{"))
            ]
            async with self._session.get("/ready") as answer:
                if not sum(unfinished) and answer.status == 200:
                    return True
            await asyncio.sleep(0.5)
        return False


async def cut_off(session: aiohttp.ClientSession, terminate: Callable[[], None]) -> dict[str, int]:
    """Stop a server in the midst of its work, and count what the clients hear."""
    long = CHAT | {"max_tokens": 1500, "ignore_eos": True}
    heard: dict[str, int] = {}

    async def ask(stream: bool) -> None:
        try:
            async with session.post(
                "/v1/chat/completions", json=long | {"stream": stream}
            ) as answer:
                end = (await answer.text())[-500:]
                told = "The server is stopping" in end
                kind = f"{answer.status} {'event' if stream else 'with Retry-After'}"
                if not told or (not stream and "Retry-After" not in answer.headers):
                    kind = f"{answer.status} without a word"
        except aiohttp.ClientError as error:
            kind = type(error).__name__
        heard[kind] = heard.get(kind, 0) + 1

    requests = [asyncio.create_task(ask(bool(n % 2))) for n in range(CUT_OFF)]
    await asyncio.sleep(2)
    terminate()
    await asyncio.gather(*requests)
    return heard


async def attack_all(
    server: Server, names: Sequence[str], bounds: Bounds
) -> tuple[list[tuple[Result, list[str]]], dict[str, int]]:
    """Every attack, and then the stop."""
    found = []
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=timeout) as session:
        attacker = Attacker(session, server.port, server.process.pid)
        for make in ATTACKS:
            if names and make.__name__ not in names:
                continue
            attack = make()
            result = await attacker.run(attack)
            found.append((result, result.broken(attack, bounds)))
            print(f"{result.name}: {result.statuses}", file=sys.stderr)
        return found, await cut_off(session, server.terminate)


def table(results: Sequence[tuple[Result, list[str]]]) -> str:
    """Markdown: an attack, a row."""
    heads = "attack | answers | lag p99 ms | lag max ms | memory MB | bounds"
    lines = [f"| {heads} |", "|---|---|---:|---:|---:|---|"]
    for result, broken in results:
        answers = ", ".join(f"{count} x {kind}" for kind, count in result.statuses.items())
        p99, most = np.percentile(result.lags_ms, 99), max(result.lags_ms)
        kept = "; ".join(broken) or "kept"
        lines.append(
            f"| {result.name} | {answers} | {p99:.0f} | {most:.0f} | {result.memory_mb:+.0f} | "
            f"{kept} |"
        )
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.attacks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=str(EMBEDDED), help="folder or name (default: the embedded model)")
    add("--only", type=lambda names: names.split(","), default=[], help="attacks, with commas:\n"
        + ", ".join(make.__name__ for make in ATTACKS))  # fmt: skip
    add("--lag-ms", type=float, default=100, help="bound of the lag's 99th percentile (100)")
    add("--memory-mb", type=float, default=300, help="bound of the API process's growth (300)")
    add("--json", type=Path, default=OUT / "results.json", help="where the numbers go")
    add("--server-args", default="", help=f"more flags for the server, after\n{FLAGS}")
    given = parser.parse_args(argv)
    if unknown := set(given.only) - {make.__name__ for make in ATTACKS}:
        parser.error(f"--only: no attack {', '.join(sorted(unknown))}")
    return given


def main() -> None:
    given = arguments()
    bounds = Bounds(given.lag_ms, given.memory_mb)
    flags = [*FLAGS.split(), f"--shutdown-timeout={DRAIN_S}", *given.server_args.split()]
    try:
        with running([CONF], given.model, flags, given.json.parent) as servers:
            results, heard = asyncio.run(attack_all(servers[CONF], given.only, bounds))
            status = servers[CONF].process.wait(60)
            log = servers[CONF].log.read_text(errors="replace")
    except ServerError as error:
        sys.exit(str(error))
    given.json.write_text(json.dumps([vars(result) for result, _ in results]))
    print(table(results))
    tracebacks = log.count("Traceback")
    words = ", ".join(f"{count} x {kind}" for kind, count in heard.items())
    print(f"\nSIGTERM with {CUT_OFF} requests under way: {words}; exit status {status}.")
    print(f"Tracebacks in the log: {tracebacks}.")
    silent = any("with" not in kind.split() and "event" not in kind.split() for kind in heard)
    if any(broken for _, broken in results) or tracebacks or silent or status:
        sys.exit(1)


if __name__ == "__main__":
    main()
