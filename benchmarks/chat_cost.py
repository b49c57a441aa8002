"""Table 1: what an answer's log-probabilities cost, by the way they are asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from benchmarks.load_client import Client, Label, Results, Sample
from benchmarks.servers import CONF, MODEL_NAME, OLD, STOCK, Server, ServerError

PATH = "/v1/chat/completions"
NOTHING = "no logprobs"
TOP_20 = "top_logprobs=20"
STREAMED, WHOLE = "streamed", "whole"
SUBJECTS = ("a lighthouse", "two rivers", "the night train", "an old clock", "a paper boat")


@dataclass(frozen=True)
class Method:
    """A way to ask for an answer.

    Attributes:
        server: a key of `servers.MODULES`.
        name: how the log-probabilities are asked for.
        fields: what the request says for that.
        sign: bytes that the answer holds if it is what was asked for.
        stream: whether it is sent in chunks.
    """

    server: str
    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    sign: bytes = b""
    stream: bool = False

    @property
    def label(self) -> Label:
        return (self.server, self.name, STREAMED if self.stream else WHOLE)

    def body(self, prompt: str, max_tokens: int) -> bytes:
        # Greedy decoding draws no random numbers, so the methods differ by log-probabilities alone.
        request = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": self.stream,
            **self.fields,
        }
        return json.dumps(request).encode()

    def check(self, answers: Sequence[bytes], max_tokens: int) -> None:
        """Look whether the answers are what was asked for, since a fast answer to something else is
        no result.

        Raises:
            ServerError: one is not.
        """
        for answer in answers:
            complete = b'"finish_reason":"length"' in answer
            if complete and not self.stream:
                complete = json.loads(answer)["usage"]["completion_tokens"] == max_tokens
            if not complete or self.sign not in answer:
                raise ServerError(f"{self.label} answered {answer[-1000:]!r}")


def _ours(mode: str, sign: bytes, **fields: Any) -> tuple[str, dict[str, Any], bytes]:
    return mode, {"logprobs": True, **fields, "confidence": {"mode": mode}}, sign


_SUMMARY = b'"mean_confidence":'
_CANDIDATES = {"logprobs": True, "top_logprobs": 20}
_WAYS: Mapping[str, Sequence[tuple[str, dict[str, Any], bytes]]] = {
    STOCK: [(NOTHING, {}, b""), (TOP_20, _CANDIDATES, b'"top_logprobs":[{')],
    OLD: [(NOTHING, {}, b""), ("stats", _CANDIDATES, _SUMMARY)],
    CONF: [
        (NOTHING, {}, b""),
        _ours("stats", _SUMMARY),
        _ours("summary", _SUMMARY),
        (TOP_20, _CANDIDATES, b'"top_logprobs":[{'),
        _ours("per_token", b'"top_logprobs":[{', top_logprobs=20),
    ],
}
METHODS = tuple(
    Method(server, *way, stream)
    for stream in (False, True)
    for server, ways in _WAYS.items()
    for way in ways
)


def method(server: str, name: str) -> Method:
    """Return the method of that name that does not stream."""
    return next(m for m in METHODS if m.label == (server, name, WHOLE))


def baseline(label: Label) -> Label:
    """Return what a ratio is against: no log-probabilities, same server, sent the same way."""
    return (label[0], NOTHING, *label[2:])


def prompts(count: int, number: int) -> list[str]:
    """Make short and distinct prompts, which are the same for every method of a round."""
    return [
        f"Tell me story {index} of evening {number}, about {SUBJECTS[index % len(SUBJECTS)]}."
        for index in range(count)
    ]


async def sample(
    client: Client,
    server: Server,
    how: Method,
    *,
    requests: int,
    concurrency: int,
    max_tokens: int,
    number: int,
) -> Sample:
    """Time one batch of `requests` answers of `max_tokens` tokens each."""
    bodies = [how.body(prompt, max_tokens) for prompt in prompts(requests, number)]
    taken, answers = await client.measure(
        server,
        PATH,
        bodies,
        concurrency=concurrency,
        tokens=requests * max_tokens,
        items=requests,
    )
    how.check(answers, max_tokens)
    return taken


async def warm_up(
    client: Client, servers: Mapping[str, Server], requests: int, max_tokens: int
) -> None:
    """Send what fills the caches and allocators that the first requests would pay for.

    One of them is as long as what is measured: a process that has just started has to make the
    JSON of every token that it meets for the first time.
    """
    for how in METHODS:
        if server := servers.get(how.server):
            length = max_tokens if how.label == (CONF, TOP_20, WHOLE) else min(8, max_tokens)
            bodies = [how.body(prompt, length) for prompt in prompts(requests, 0)]
            how.check(await client.send(server, PATH, bodies, requests), length)


async def run(
    client: Client,
    servers: Mapping[str, Server],
    bar: tqdm,
    *,
    rounds: int,
    concurrency: int,
    max_tokens: int,
) -> Results:
    """Measure every method once a round, in another order each round."""
    results: Results = {how.label: [] for how in METHODS}
    for number in range(1, rounds + 1):
        for how in random.Random(number).sample(METHODS, len(METHODS)):
            bar.set_postfix_str(f"chat: {' '.join(how.label)}")
            taken = await sample(
                client,
                servers[how.server],
                how,
                requests=concurrency,
                concurrency=concurrency,
                max_tokens=max_tokens,
                number=number,
            )
            results[how.label].append(taken)
            bar.update()
    return results


def steps(rounds: int) -> int:
    """Return how often `run` moves the progress bar."""
    return rounds * len(METHODS)
