"""Labels from a file of their own, for answers that were paid for before the labels were right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conf_server.report import labels
from conf_server.report.json_lines import ReportError, read_objects
from conf_server.report.questions import REQUEST, TEXTS, is_request


@dataclass(frozen=True)
class Entry:
    """A line of the file that holds a label.

    Attributes:
        place: its number, counted from 1.
        content: the whole object.
    """

    place: int
    content: dict[str, Any]


@dataclass
class LabelsFile:
    """Labels by the answers that they are about.

    Attributes:
        path: the file.
        by_line: its entries by the number of the input's line.
        by_id: its entries by the `id` in JSON.
        used: by the place of an entry, the `line` of the answer that it was found for.
    """

    path: str
    by_line: dict[int, Entry] = field(default_factory=dict)
    by_id: dict[str, Entry] = field(default_factory=dict)
    used: dict[int, object] = field(default_factory=dict)

    @property
    def unused(self) -> list[int]:
        """Places of the entries that no answer was found for."""
        entries = (*self.by_line.values(), *self.by_id.values())
        return sorted(one.place for one in entries if one.place not in self.used)

    def applied_to(self, line: Mapping[str, Any]) -> Mapping[str, Any]:
        """A line of an output with the file's labels in place of its own, where it has some.

        Raises:
            ReportError: the entry has another `id` than the answer, or labels two answers.
        """
        number, name = line.get("line"), line.get("id")
        found = self.by_line.get(number) if type(number) is int else None
        found = found or self.by_id.get(_key(name))
        if found is None:
            return line
        wanted = found.content.get("id")
        if None not in (wanted, name) and wanted != name:
            raise self._error(
                found,
                f"the answer to line {number} has the id {_key(name)}, not {_key(wanted)}",
            )
        if self.used.setdefault(found.place, number) != number:
            raise self._error(
                found,
                f"the id {_key(name)} is that of the answers to line {self.used[found.place]} "
                f"and line {number}; give `line`",
            )
        texts: dict[str, Any] = {
            one: found.content[one] for one in (*TEXTS, *REQUEST) if one in found.content
        }
        own = {one: found.content.get(one) for one in labels.FIELDS}
        return {**texts, **line, **own}

    def _error(self, entry: Entry, what: str) -> ReportError:
        return ReportError(f"{self.path}: line {entry.place}: {what}")


def read_labels_file(path: str) -> LabelsFile:
    """Read labels: one JSON object a line, with `correct`, `reference` or both.

    A line says by `line` (the number of the input's line) or by `id` which answer it is about.
    A line of an input itself, which has neither, is about the line of its own number. Lines
    without a label are skipped.

    Raises:
        ReportError: the file cannot be read, or a line has no answer to be about, has a label
            that cannot be meant, or is about the same answer as one before.
    """
    found = LabelsFile(path)
    for place, content in read_objects(path):
        if not any(name in content for name in labels.FIELDS):
            continue
        try:
            labels.parse_label(content, None)
            _add(found, Entry(place, content))
        except ValueError as error:
            raise ReportError(f"{path}: line {place}: {error}") from error
    if not (found.by_line or found.by_id):
        raise ReportError(f"{path}: no `correct` and no `reference` in it")
    return found


def _add(found: LabelsFile, entry: Entry) -> None:
    number, name = entry.content.get("line"), entry.content.get("id")
    if number is None and name is None:
        if not is_request(entry.content):
            raise ValueError("which answer? Give `line`, the number of the input's line, or `id`")
        number = entry.place
    if number is None:
        first = found.by_id.setdefault(_key(name), entry)
    elif type(number) is not int or number < 1:
        raise ValueError(f"`line` must be a number from 1 on, got {json.dumps(number)}")
    else:
        first = found.by_line.setdefault(number, entry)
    if first is not entry:
        raise ValueError(f"line {first.place} has a label of the same answer")


def _key(name: object) -> str:
    """What is equal for equal ids."""
    return json.dumps(name, sort_keys=True)
