"""Reads an output of `score`, `uncertainty` or `think`."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from conf_server.report.answers import NO_ANSWER, Answer, Answers, Estimate
from conf_server.report.json_lines import ReportError, read_objects
from conf_server.report.labels import LabelError, parse_label
from conf_server.report.labels_file import LabelsFile
from conf_server.report.questions import TEXTS, Questions, question_of
from conf_server.report.recorded_traces import thinking_of

SIGNS: Final = {"more uncertain": 1, "less uncertain": -1}
"""`higher_is` of an estimate."""


def read_output(
    path: str, labels_file: LabelsFile | None = None, questions: Questions | None = None
) -> Answers:
    """Read an output of a batch command; whether answers are correct is left open.

    Args:
        labels_file: labels in place of those of the lines.
        questions: what was asked, where the lines do not repeat it.

    Raises:
        ReportError: the file cannot be read, a line is not one of an output, or one of the other
            files does not fit.
    """
    answers = Answers(path)
    seen: set[int] = set()
    for number, line in read_objects(path):
        try:
            if is_repeated(line, seen):
                answers.repeated.append(number)
                continue
            request = questions.behind(line) if questions else {}
            answers.record.add_request(request)
            asked: dict[str, Any] = {name: request[name] for name in TEXTS if name in request}
            labelled = {
                **asked,
                **(labels_file.applied_to(line) if labels_file else line),
            }
            question = question_of(line) or question_of(request) or question_of(labelled)
            _add_line(answers, number, labelled, question)
        except ReportError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ReportError(f"{path}: line {number}: {why}") from error
    return answers


def is_repeated(line: Mapping[str, Any], seen: set[int]) -> bool:
    """Whether the same server's answer to the same request and line was there before."""
    if "request" not in line:
        return False
    key = hash((line.get("line"), line["request"], line.get("server")))
    repeated = key in seen
    seen.add(key)
    return repeated


def _add_line(answers: Answers, number: int, line: Mapping[str, Any], question: str | None) -> None:
    """Add the answers of a line.

    Args:
        number: of the line in the output.
    """
    if "error" in line:
        answers.failed += 1
        return
    result = line["result"]
    answers.record.add_result(line, result)
    answers.unavailable.update((result.get("unavailable") or {}).items())
    rows = list(_rows(line, result))
    if "think" in result:
        answers.thinking[len(answers)] = thinking_of(result["think"])
    try:
        label = parse_label(line, len(rows))
    except LabelError as error:
        answers.bad_labels.setdefault(str(error), array("Q")).append(number)
        label = None
    place = line.get("line")
    name = line.get("id")
    for index, (estimates, text) in enumerate(rows):
        answer = Answer(
            line=place if type(place) is int else number,
            index=index,
            name=None if name is None else json.dumps(name, ensure_ascii=False),
            question=question,
            text=text if isinstance(text, str) else None,
            label=label,
        )
        answers.add(estimates, answer)


def _rows(
    line: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Estimate], object]]:
    """The estimates and the text of each answer of a line."""
    kind = result.get("object")
    if kind == "uncertainty":
        yield _uncertainty_estimates(result["estimates"]), result["answer"].get("text")
    elif kind == "score":
        texts = line.get("completions") or [line.get("completion")] * len(result["data"])
        for scored, text in zip(result["data"], texts, strict=True):
            yield _score_estimates(scored), _text_of(text)
    elif kind == "chat.completion" and "think" in result:
        yield _vote_estimates(result["think"]), result["think"]["answer"] or NO_ANSWER
    else:
        raise ValueError(f"object {kind!r} is neither 'score' nor 'uncertainty'")


def _text_of(completion: object) -> object:
    """The text of a completion that may be an object with more than its text."""
    return completion.get("text") if isinstance(completion, dict) else completion


def _uncertainty_estimates(estimates: Mapping[str, Any]) -> dict[str, Estimate]:
    found = {}
    for name, given in estimates.items():
        direction = given["higher_is"]
        if direction not in SIGNS:
            raise ValueError(f"{name}: higher_is {direction!r} is not known")
        found[name] = Estimate(_number(given["value"]), given["exact"], SIGNS[direction])
    return found


def _score_estimates(scored: Mapping[str, Any]) -> dict[str, Estimate]:
    found = {
        name: Estimate(_number(given["value"]), given["exact"], 1)
        for name, given in (scored.get("uncertainty") or {}).items()
    }
    for name, value in (scored.get("confidence_summary") or {}).items():
        found[name] = Estimate(_number(value), True, -1)
    return found


def _vote_estimates(think: Mapping[str, Any]) -> dict[str, Estimate]:
    """How much of the traces, and of what their votes weigh, agrees with the answer."""
    shares = {
        name: _share_of_winner(think["answer"], think["groups"], of)
        for name, of in (("vote_share", "votes"), ("weight_share", "weight"))
    }
    return {name: Estimate(share, True, -1) for name, share in shares.items()}


def _share_of_winner(
    answer: str | None, groups: Sequence[Mapping[str, Any]], of: str
) -> float | None:
    """What the winner's group has of all; None where there is nothing to divide."""
    given = {str(group["answer"]): _number(group[of]) or 0.0 for group in groups}
    total = sum(given.values())
    return None if answer not in given or not total > 0 else given[answer] / total


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("a number that no double can hold")
    return number
