"""What was asked: from a line of an output that repeats it, or from the input of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from conf_server.report.json_lines import ReportError, read_objects

REQUEST: Final = ("prompt", "messages")
"""One of these is in every line of an input of `score` and `uncertainty`."""

TEXTS: Final = ("completion", "completions")
"""What `score` has scored: a line of an output lacks them where it had no reference."""


@dataclass
class Questions:
    """Lines of the input of a run.

    Attributes:
        path: the file.
        lines: by their numbers.
        used: how many answers it was of use to.
    """

    path: str
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    used: int = 0

    def behind(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """The request that a line of an output answers; empty where it is not in the file.

        Raises:
            ReportError: the line of that number has another `id`.
        """
        number = line.get("line")
        found = self.lines.get(number, {}) if type(number) is int else {}
        ids = [one["id"] for one in (found, line) if one.get("id") is not None]
        if len(ids) == 2 and ids[0] != ids[1]:
            theirs, ours = (json.dumps(one) for one in ids)
            raise ReportError(
                f"{self.path}: line {number}: its id is {theirs}, that of the answer is {ours}"
            )
        self.used += bool(found)
        return found


def read_questions(path: str) -> Questions:
    """Read the input of a run.

    Raises:
        ReportError: the file cannot be read, or there is no question in it.
    """
    found = Questions(path)
    for number, content in read_objects(path):
        if is_request(content):
            found.lines[number] = content
    if not found.lines:
        raise ReportError(f"{path}: no `prompt` and no `messages` in it")
    return found


def is_request(line: Mapping[str, Any]) -> bool:
    """Whether a line holds a question."""
    return any(name in line for name in REQUEST)


def question_of(line: Mapping[str, Any]) -> str | None:
    """The prompt, or the last message of a chat; None where there is no text of either."""
    prompt, messages = line.get("prompt"), line.get("messages")
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return f"[{len(prompt)} token ids]"
    if not isinstance(messages, list) or not messages:
        return None
    last = messages[-1]
    said = _content(last.get("content")) if isinstance(last, dict) else None
    if said is not None and len(messages) > 1:
        others = len(messages) - 1
        return f"[after {others} other message{'s' * (others > 1)}] {said}"
    return said


def _content(content: object) -> str | None:
    """A message's text; of parts that are no text, what they are."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part for part in content if isinstance(part, dict)]
    return " ".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts)
