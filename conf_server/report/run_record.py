"""How answers were made, as far as the lines of an output and of its input say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

SETTINGS: Final = ("n_samples", "similarity", "temperature")
"""Fields of `uncertainty` in a line of an input that the record shows."""

MOST_SHOWN: Final = 4
"""Different values of one thing; more are counted."""


@dataclass
class RunRecord:
    """What was run.

    Attributes:
        models: the names of the models that answered, and how many lines each.
        servers: what answered, in the batch command's words: name and root, or path and flags.
        created: the first and the last second of an answer, since 1970; empty where none says so.
        similarities: who compared the texts.
        n_samples: how many samples an answer has, where it shows them or their meanings.
        backends: `scorer` and `engine`, by how many estimates each has made.
        asked: what lines of the input set, by the name of the field.
    """

    models: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    created: list[int] = field(default_factory=list)
    similarities: Counter[str] = field(default_factory=Counter)
    n_samples: Counter[int] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    asked: dict[str, Counter[str]] = field(default_factory=dict)

    def add_result(self, line: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Take down what a line of an output says beside its estimates."""
        self.models[str(result.get("model"))] += 1
        if isinstance(server := line.get("server"), str):
            self.servers[server] += 1
        created = result.get("created")
        if isinstance(created, int) and 0 < created < 1 << 40:
            known = [*self.created, created]
            self.created = [min(known), max(known)]
        if isinstance(similarity := result.get("similarity"), str):
            self.similarities[similarity] += 1
        samples = result.get("clusters") or result.get("samples")
        if isinstance(samples, list):
            self.n_samples[len(samples)] += 1
        for estimate in (result.get("estimates") or {}).values():
            self.backends[estimate.get("backend", "engine")] += 1

    def add_request(self, request: Mapping[str, Any]) -> None:
        """Take down what a line of the input asks for."""
        given = request.get("uncertainty")
        wanted = {name: given[name] for name in SETTINGS if name in given} if given else {}
        for name in ("seed", "max_tokens"):
            if name in request:
                wanted[name] = request[name]
        for name, value in wanted.items():
            self.asked.setdefault(name, Counter())[str(value)] += 1

    def facts(self) -> list[tuple[str, str]]:
        """What was run, as terms and what the records say of each, or that they do not."""
        asked = {name: _values(counts, name == "seed") for name, counts in self.asked.items()}
        similarity = _values(self.similarities) or asked.get("similarity", "")
        samples = _values(self.n_samples) or asked.get("n_samples", "")
        found = [
            ("answered", self._dates()),
            ("model", _values(self.models)),
            ("server", _values(self.servers)),
            ("samples an answer", samples),
            ("similarity", similarity),
            ("temperature of the samples", asked.get("temperature", "")),
            ("seeds of the requests", asked.get("seed", "")),
            ("most tokens of an answer", asked.get("max_tokens", "")),
            ("fitted methods", self._fitted()),
        ]
        if "scorer" in self.backends:
            found.append(("estimates made by", _values(self.backends)))
        return [(term, text or "not recorded") for term, text in found]

    def _dates(self) -> str:
        days = [f"{datetime.fromtimestamp(one, UTC):%Y-%m-%d %H:%M} UTC" for one in self.created]
        return " to ".join(dict.fromkeys(days))

    def _fitted(self) -> str:
        """The folder behind --fitted among the server's flags."""
        folders: Counter[str] = Counter()
        for server in self.servers:
            words = server.split()
            folders.update(after for word, after in pairwise(words) if word == "--fitted")
        return _values(folders)


def _values(counts: Mapping[Any, int], is_range: bool = False) -> str:
    """`a`, or `a (40), b (2)`, or how many different ones."""
    names: Iterable[Any] = counts
    if len(counts) == 1:
        return str(next(iter(names)))
    if len(counts) <= MOST_SHOWN:
        return ", ".join(f"{name} ({count})" for name, count in counts.items())
    numbers = [int(name) for name in names if str(name).lstrip("-").isdecimal()]
    if is_range and len(numbers) == len(counts):
        return f"{len(counts)} different ones, {min(numbers)} to {max(numbers)}"
    return f"{len(counts)} different ones"
