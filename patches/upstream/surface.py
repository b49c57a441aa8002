"""What we rely on in vLLM: surface.toml, read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USES = ("imported", "subclassed", "overridden", "called", "read")

_CLAUSE = re.compile(r"(<=|>=|==|<|>)\s*(\d+(?:\.\d+)*)")


class SurfaceError(ValueError):
    """A line of surface.toml that cannot be meant. The message names it."""


def release(version: str) -> tuple[int, ...]:
    """The numbers a version starts with, comparable: 0.33.0rc1 is (0, 33, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    return tuple(numbers + [0] * (4 - len(numbers)))


def in_range(version: str, clauses: str) -> bool:
    """Whether a version satisfies clauses such as `>=0.32,<0.33`; none: every version does."""
    ours = release(version)
    for clause in filter(None, (part.strip() for part in clauses.split(","))):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise SurfaceError(f"not a version range: {clauses!r}")
        theirs = release(match[2])
        holds = {
            "<": ours < theirs,
            "<=": ours <= theirs,
            ">": ours > theirs,
            ">=": ours >= theirs,
            "==": ours == theirs,
        }
        if not holds[match[1]]:
            return False
    return True


@dataclass(frozen=True)
class Need:
    """One name that we rely on.

    Attributes:
        module: the module we take it from; vLLM may define it elsewhere.
        table: its table in surface.toml: the module we take it from in newer versions.
        name: its name in there, `Class.method` for members.
        uses: how we rely on it; see `USES`.
        why: what for.
    """

    module: str
    table: str
    name: str
    uses: frozenset[str]
    why: str

    @property
    def key(self) -> str:
        return f"{self.module}:{self.name}"


class Surface:
    """Every name that we rely on, in any version."""

    def __init__(self, tables: dict[str, dict[str, Any]]) -> None:
        self._tables = tables

    @classmethod
    def load(cls, path: Path) -> Surface:
        """Read surface.toml.

        Raises:
            SurfaceError: naming the entry that is wrong.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SurfaceError(f"{path.name}: {error}") from error
        surface = cls(tables)
        list(surface.entries())  # every entry is read once, so that a wrong one is told now
        return surface

    def needs(self, version: str) -> list[Need]:
        """What we rely on in one version."""
        found = []
        for title, table in self._tables.items():
            has_table = in_range(version, table.get("vllm", ""))
            module = title if has_table else table.get("before")
            for name, entry in _entries(table):
                if module and in_range(version, entry.get("vllm", "")):
                    found.append(_need(module, title, name, entry))
        return found

    def entries(self) -> Iterator[Need]:
        """Every entry, in any version, once for each module it has stood in."""
        for title, table in self._tables.items():
            for module in filter(None, (title, table.get("before"))):
                for name, entry in _entries(table):
                    in_range("0", f"{table.get('vllm', '')},{entry.get('vllm', '')}")
                    yield _need(module, title, name, entry)

    def modules(self) -> set[str]:
        """Every module with a table."""
        earlier = {table["before"] for table in self._tables.values() if "before" in table}
        return {*self._tables, *earlier}


def _entries(table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in table.items():
        if isinstance(entry, dict):
            yield name, entry
        elif name not in ("vllm", "before"):
            raise SurfaceError(f'{name}: want {{ use = "...", why = "..." }}, got {entry!r}')


def _need(module: str, table: str, name: str, entry: dict[str, Any]) -> Need:
    uses = frozenset(use.strip() for use in entry.get("use", "").split(","))
    if not uses <= set(USES) or not entry.get("why") or set(entry) - {"use", "why", "vllm"}:
        known = ", ".join(USES)
        raise SurfaceError(f"{module}: {name}: want use (of {known}) and why, maybe vllm")
    return Need(module, table, name, uses, entry["why"])
