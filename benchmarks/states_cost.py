"""Table 6: what hidden states and attention weights of given texts cost, by what is asked for.

conf-server runs with --enable-hidden-states. Beside it runs one without, to which only ordinary
requests are sent: what they take on the first server beyond that, they pay for what others ask.
transformers reads the same texts as people do who keep a second copy of the model for that: with
all hidden states and all attention weights.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.load_client import QUIET_S, Client, Label, Results, Sample
from benchmarks.scoring_cost import Case, Text
from benchmarks.servers import CONF, MODEL_NAME, Server, running, runs_on_cuda
from benchmarks.transformers_forward import TransformersProcess, transformers_process

TRANSFORMERS, WITHOUT = "transformers", f"{CONF} without hidden states"
PLAIN_CACHED, PLAIN_WHOLE = "plain prefill, context cached", "plain prefill, whole"
RAUQ = "RAUQ's layers, context cached"
DENSITY = "final states, mean of all tokens"
EVERYTHING = "all layers' states and weights, whole"
FORWARD = "all layers' states and weights"
FORWARD_ONE_THREAD = f"{FORWARD}, one thread"
GENERATION = "generation, context cached"
ORDINARY = (PLAIN_WHOLE, PLAIN_CACHED, GENERATION)
GENERATED_TOKENS = 64


class Want(NamedTuple):
    """What a request asks of /v1/hidden_states."""

    name: str
    cached: bool
    body: dict[str, Any]


def wants(num_layers: int) -> list[Want]:
    """Everything that is measured.

    Args:
        num_layers: decoder layers of the model.
    """
    middle, every = num_layers // 2, list(range(num_layers))
    third = every[num_layers // 3 : -(-2 * num_layers // 3) + 1]
    alone: dict[str, Any] = {"tokens": "completion", "layers": []}
    all_of_it = {
        "layers": [*every, num_layers],
        "attention": {"layers": every, "history": 2, "context_mass": True},
    }
    return [
        Want(DENSITY, False, {"layers": [-1]}),
        Want("one middle layer, mean of all tokens", False, {"layers": [middle]}),
        Want("weights of one middle layer, whole", False, {**_weights([middle]), "layers": []}),
        Want(EVERYTHING, False, all_of_it),
        Want("final states, context cached", True, {**alone, "layers": [-1]}),
        Want(
            "one middle layer, context cached", True, {"tokens": "completion", "layers": [middle]}
        ),
        Want(RAUQ, True, {**alone, **_weights(third)}),
        Want(
            "all layers' states and weights, context cached",
            True,
            {"tokens": "completion", **all_of_it},
        ),
    ]


def _weights(layers: list[int]) -> dict[str, Any]:
    return {"attention": {"layers": layers}}


@dataclass
class StatesCost:
    """What was measured.

    Attributes:
        peak_mb: by label, the most memory that the worker had resident, of each round.
    """

    results: Results = field(default_factory=dict)
    peak_mb: dict[Label, list[float]] = field(default_factory=dict)

    def add(self, label: Label, sample: Sample, peak_mb: float) -> None:
        self.results.setdefault(label, []).append(sample)
        self.peak_mb.setdefault(label, []).append(peak_mb)


def baseline(label: Label) -> Label:
    """Return what a ratio is against: a plain prefill of as many new tokens, or itself."""
    if label[1] == GENERATION:
        return (CONF, GENERATION)
    return (CONF, PLAIN_CACHED if label[1].endswith("context cached") else PLAIN_WHOLE)


def measure(
    model: str, flags: tuple[str, ...], logs: Path, *, rounds: int, case: Case, beside: bool
) -> StatesCost:
    """Start the server (and, if `beside`, transformers), and measure every want once a round."""
    found = StatesCost()
    with ExitStack() as stack:
        plain = stack.enter_context(running([CONF], model, flags, logs / "without"))[CONF]
        flags = (*flags, "--enable-hidden-states", "--max-hidden-state-values=100000000")
        server = stack.enter_context(running([CONF], model, flags, logs))[CONF]
        reference = stack.enter_context(transformers_process(model, logs)) if beside else None
        asyncio.run(_rounds({CONF: server, WITHOUT: plain}, reference, found, rounds, case))
    return found


async def _rounds(
    servers: Mapping[str, Server],
    reference: TransformersProcess | None,
    found: StatesCost,
    rounds: int,
    case: Case,
) -> None:
    async with Client() as client:
        num_layers = await _num_layers(client, servers[CONF])
        steps = [*_steps(wants(num_layers))]
        for by, want in steps:
            found.results[by, want.name] = []  # in this order, whatever that of a round is
        for number in tqdm(range(rounds + 1), "states", unit="round", dynamic_ncols=True):
            # The first round makes ready what is made ready once, and is not counted.
            taken = found if number else StatesCost()
            for by, want in random.Random(number).sample(steps, len(steps)):
                await _take(client, by, servers[by], taken, want, number, case)
            if reference is not None and number:
                await asyncio.sleep(QUIET_S)
                _forward(reference, taken, number, case)


async def _num_layers(client: Client, server: Server) -> int:
    body = json.dumps({"model": MODEL_NAME, "prompt": [1, 2], "layers": [-1]}).encode()
    (answer,) = await client.send(server, "/v1/hidden_states", [body], 1)
    (layer,) = json.loads(answer)["layers"]
    return int(layer)


def _steps(asked: list[Want]) -> Iterator[tuple[str, Want]]:
    for by in (WITHOUT, CONF):
        for name in ORDINARY:
            yield by, Want(name, name != PLAIN_WHOLE, {})
    for want in asked:
        yield CONF, want


async def _take(
    client: Client,
    by: str,
    server: Server,
    found: StatesCost,
    want: Want,
    number: int,
    case: Case,
) -> None:
    """Measure one request with all texts; its completions are new, its contexts if not cached."""
    seed = f"states {number} {want.name}"
    texts = case.texts(seed)
    if want.cached:
        contexts = [Text(text.context, [[]]) for text in texts]
        await client.send(server, "/v1/completions", [_plain(contexts)], 1)
    path, body = "/v1/completions", _plain(texts)
    if want.name == GENERATION:
        body = _plain(texts, max_tokens=GENERATED_TOKENS, ignore_eos=True)
    elif want.body:
        path, body = "/v1/hidden_states", _inner(texts, want.body)
    (worker,) = server.processes["worker"][:1]
    _forget_peak(worker)
    items = case.completions
    sample, _ = await client.measure(
        server, path, [body], concurrency=1, tokens=_count(texts), items=items
    )
    found.add((by, want.name), sample, _peak_mb(worker))


def _forward(reference: TransformersProcess, found: StatesCost, number: int, case: Case) -> None:
    """The same texts as `EVERYTHING` of this round, in transformers.

    On a CPU once more with one thread: vLLM leaves a core to the server, and so its worker has
    one less than transformers takes.
    """
    texts = case.texts(f"states {number} {EVERYTHING}")
    pairs = [(text.context, each) for text in texts for each in text.completions]
    threads = {FORWARD: None} if runs_on_cuda() else {FORWARD: None, FORWARD_ONE_THREAD: 1}
    for name, count in threads.items():
        answer = reference.score(pairs, inner=True, threads=count)
        sample = Sample(
            answer.seconds,
            {"api": answer.cpu_seconds},
            tokens=_count(texts),
            items=case.completions,
            received=0,
        )
        found.add((TRANSFORMERS, name), sample, answer.peak_mb)


def _plain(texts: list[Text], **fields: Any) -> bytes:
    prompts = [text.context + each for text in texts for each in text.completions]
    body = {"model": MODEL_NAME, "prompt": prompts, "max_tokens": 1, "temperature": 0}
    return json.dumps(body | fields).encode()


def _inner(texts: list[Text], wanted: dict[str, Any]) -> bytes:
    items = [{"prompt": text.context, "completions": text.completions} for text in texts]
    return json.dumps({"model": MODEL_NAME, "items": items, **wanted}).encode()


def _count(texts: list[Text]) -> int:
    return sum(len(text.context) + len(each) for text in texts for each in text.completions)


def _forget_peak(pid: int) -> None:
    """Let the kernel count the peak of the resident memory anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e6
