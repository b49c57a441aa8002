"""Records: what one vLLM release has behind the names that we rely on, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reader import Entry
from surface import Need, release

_FEW = 20
"""Lists of up to this many items are shown whole where they changed."""


@dataclass(frozen=True)
class Record:
    """One release's entries by `module:name`.

    Attributes:
        distribution: whose wheel they were read from.
    """

    version: str
    distribution: str
    names: dict[str, Entry]

    @classmethod
    def load(cls, path: Path) -> Record:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(fields["vllm"], fields["distribution"], fields["names"])

    def save(self, path: Path) -> None:
        """Write JSON with one line for each name, so that a diff of two records can be read."""
        names = [
            f"  {json.dumps(key)}: {json.dumps(self.names[key])}" for key in sorted(self.names)
        ]
        lines = [
            "{",
            f' "vllm": {json.dumps(self.version)},',
            f' "distribution": {json.dumps(self.distribution)},',
            ' "names": {',
            ",\n".join(names),
            " }",
            "}",
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def record_path(folder: Path, version: str) -> Path:
    return folder / f"{version}.json"


def recorded_versions(folder: Path) -> list[str]:
    """Versions with a record, oldest first."""
    return sorted((path.stem for path in folder.glob("[0-9]*.json")), key=release)


def moved(names: dict[str, Entry], old: list[Need], new: list[Need]) -> dict[str, Entry]:
    """Put entries under the keys that a newer version has, as far as surface.toml knows them."""
    new_keys = {(need.table, need.name): need.key for need in new}
    renamed = {need.key: new_keys.get((need.table, need.name), need.key) for need in old}
    return {renamed.get(key, key): entry for key, entry in names.items()}


@dataclass(frozen=True)
class Difference:
    """One name that is not as it was, with lines that say so to people."""

    key: str
    lines: list[str]


def differences(old: dict[str, Entry], new: dict[str, Entry]) -> Iterator[Difference]:
    """Yield what changed for the names that both have."""
    for key in sorted(old.keys() & new.keys()):
        lines: list[str] = []
        for part in sorted(old[key].keys() | new[key].keys()):
            was, now = old[key].get(part), new[key].get(part)
            if was != now:
                lines += _changed(part, was, now)
        if lines:
            yield Difference(key, lines)


def _changed(part: str, was: Any, now: Any) -> list[str]:
    if not isinstance(was, list) or not isinstance(now, list):
        return [f"{part}:", f"  was {_shown(was)}", f"  now {_shown(now)}"]
    went = [item for item in was if item not in now]
    came = [item for item in now if item not in was]
    lines = [f"{part} gone: {', '.join(went)}"] if went else []
    lines += [f"{part} new: {', '.join(came)}"] if came else []
    lines = lines or [f"{part} in another order"]
    if len(was) <= _FEW:
        lines += [f"  was {_shown(was)}", f"  now {_shown(now)}"]
    return lines


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"({', '.join(value)})" if isinstance(value, list) else str(value)
