"""What files say of the samples that questions have had."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from conf_server.batch.records import USERS
from conf_server.report.json_lines import ReportError, read_objects
from conf_server.report.outputs import is_repeated
from conf_server.report.questions import REQUEST, Questions, is_request
from conf_server.thinking.allocation import Tally

ENDED: Final = ("finished", "length")
"""`status` of a trace that had come to its end, or to the end of its room."""

MOST_VOTES: Final = 10**9
"""No answer has as many: a larger number is a mistake."""


@dataclass
class SampledQuestion:
    """A question and the answers of its samples.

    Attributes:
        name: what its lines have in common: `id` or `line`, and the value.
        request: what asks it; empty where no file says.
        is_uncertainty: whether its samples are of /v1/uncertainty.
        votes: how many samples have given each answer, as text.
        missing: samples without an answer.
        uncounted: traces that were stopped or cancelled, and say nothing.
    """

    name: tuple[str, Any]
    request: dict[str, Any] = field(default_factory=dict)
    is_uncertainty: bool = False
    votes: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    uncounted: int = 0

    @property
    def tally(self) -> Tally:
        """The same as numbers alone."""
        return Tally(tuple(self.votes.values()), self.missing)

    def further(self, samples: int) -> dict[str, Any]:
        """A line of the output: the request for so many more samples, or how many they are."""
        if not self.request:
            name, value = self.name
            return {name: value, "samples": samples}
        line = dict(self.request)
        if type(line.get("seed")) is int:
            # The same seed would draw the same samples again.
            line["seed"] += self.votes.total() + self.missing + self.uncounted
        if self.is_uncertainty:
            line["uncertainty"] = {
                **_object(line, "uncertainty"),
                "n_samples": samples,
                "return_samples": True,
            }
        else:
            line["think"] = _thinking(_object(line, "think"), samples)
        return line


def _thinking(given: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """What /v1/think has to know; a warm-up that leaves no trace behind it is left out."""
    think = {**given, "budget": samples}
    warmup = given.get("warmup", 16)
    if given.get("calibrate", "warmup") == "warmup" and not (
        type(warmup) is int and warmup < samples
    ):
        think.pop("warmup", None)
        think["calibrate"] = "none"
    return think


def _object(line: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = line.get(name)
    return found if isinstance(found, dict) else {}


@dataclass
class SampledAnswers:
    """All questions of some files, in the order in which they are first named.

    Attributes:
        questions: by their names.
        failed: lines that hold an error instead of an answer.
    """

    questions: dict[str, SampledQuestion] = field(default_factory=dict)
    failed: int = 0


def read_answers(paths: Sequence[str], asked: Questions | None = None) -> SampledAnswers:
    """Read files of answers. Lines about one question count together.

    Args:
        asked: the input of the run that has written a file, where its lines do not repeat it.

    Raises:
        ReportError: a file cannot be read, or a line is not what it has to be.
    """
    found = SampledAnswers()
    for path in paths:
        seen: set[int] = set()
        for number, line in read_objects(path):
            try:
                if is_repeated(line, seen):
                    continue
                _add(found, number, line, asked, len(paths) > 1)
            except ValueError as error:
                where = "" if isinstance(error, ReportError) else f"{path}: line {number}: "
                raise ReportError(f"{where}{error}") from error
    if not found.questions:
        raise ReportError(f"{', '.join(paths)}: no question in it")
    return found


def _add(
    found: SampledAnswers,
    number: int,
    line: dict[str, Any],
    asked: Questions | None,
    several: bool,
) -> None:
    if "error" in line and "result" not in line:
        found.failed += 1
        return
    name = _name(line, number, several)
    question = found.questions.setdefault(json.dumps(name), SampledQuestion(name))
    question.request = question.request or _request(line, asked)
    result = line.get("result", line)
    if not isinstance(result, dict):
        raise ValueError("`result`: must be an object")
    if result.get("object") == "uncertainty":
        question.is_uncertainty = True
        answers: Iterator[object] = _uncertainty_answers(result)
    elif "groups" in _object(result, "think"):
        _add_groups(question, result["think"])
        return
    elif "answers" in result and isinstance(result["answers"], list):
        answers = iter(result["answers"])
    elif "answers" not in result and is_request(result):
        question.is_uncertainty |= "uncertainty" in result
        return
    else:
        raise ValueError(_none_in(result))
    for answer in answers:
        text = _text(answer)
        question.missing += not text
        question.votes.update([text] if text else [])


def _none_in(result: Mapping[str, Any]) -> str:
    if result.get("object") == "score":
        return "`result`: an answer of /v1/score has no samples"
    if "answers" in result:
        return "`answers`: must be a list"
    return "no samples in it: neither `think.groups` nor `answers`, nor those of /v1/uncertainty"


def _name(line: Mapping[str, Any], number: int, several: bool) -> tuple[str, Any]:
    if line.get("id") is not None:
        return "id", line["id"]
    if several:
        raise ValueError("`id`: none; lines of several files are about one question by their id")
    place = line.get("line")
    return "line", place if type(place) is int else number


def _request(line: Mapping[str, Any], asked: Questions | None) -> dict[str, Any]:
    """What asks the question of a line; empty where nothing says."""
    if asked is not None and (behind := asked.behind(line)):
        return dict(behind)
    if not is_request(line):
        return {}
    if "result" in line:
        # Whether the answer there was right says nothing of the next one.
        kept = [name for name in (*USERS, *REQUEST) if name != "correct"]
        return {name: line[name] for name in kept if name in line}
    told = {"answers", "think"} if "groups" in _object(line, "think") else {"answers"}
    return {name: value for name, value in line.items() if name not in told}


def _uncertainty_answers(result: Mapping[str, Any]) -> Iterator[object]:
    samples = result.get("samples")
    if not isinstance(samples, list):
        raise ValueError("`result.samples`: not in it; ask with `uncertainty.return_samples`")
    for index, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get("text"), str):
            raise ValueError(f"`result.samples.{index}.text`: must be a text")
        yield sample["text"]


def _add_groups(question: SampledQuestion, think: Mapping[str, Any]) -> None:
    """Take in the answers of /v1/think: its groups, and traces that ended without an answer."""
    groups = think["groups"]
    if not isinstance(groups, list):
        raise ValueError("`think.groups`: must be a list")
    for index, group in enumerate(groups):
        votes = group.get("votes") if isinstance(group, dict) else None
        if type(votes) is not int or not 0 <= votes <= MOST_VOTES:
            raise ValueError(
                f"`think.groups.{index}.votes`: must be a whole number from 0 to {MOST_VOTES}"
            )
        if text := _text(group.get("answer")):
            question.votes[text] += votes
        else:
            question.missing += votes
    traces = think.get("traces")
    for trace in traces if isinstance(traces, list) else ():
        if isinstance(trace, dict):
            ended = trace.get("status") in ENDED
            question.missing += ended and trace.get("answer") is None
            question.uncounted += not ended


def _text(answer: object) -> str:
    """An answer as others are compared with it; empty for none."""
    if answer is None:
        return ""
    return answer.strip() if isinstance(answer, str) else json.dumps(answer, sort_keys=True)
