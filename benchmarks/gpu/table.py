"""One Markdown table of what `benchmarks` measured on several models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.gpu import GpuError

Sample = Mapping[str, Any]
Documents = Mapping[str, Sequence[Mapping[str, Any]]]

HEAD = ("model", "work", "server", "method", "tokens/s", "×", "API CPU µs/token", "×", "rounds")
NOTE = """\
Medians over the rounds. × is the median of the ratios within each round: of chat, to no logprobs
on the same server; of scoring, to the same server's cold plain prefill (of conf-server, for
transformers). Scoring counts all tokens of context and completion. The API process only; engine
and workers poll."""

_NOTHING = "no logprobs"
_PREFILL = "plain prefill, cold"
_CONF, _STOCK = "conf-server", "stock vLLM"


def markdown(documents: Documents) -> str:
    """The table, after the machine and the versions.

    Args:
        documents: model name -> what `python -m benchmarks --json` wrote for it.

    Raises:
        GpuError: figures of different machines or versions, which are not to be compared.
    """
    made = [_made(document) for found in documents.values() for document in found]
    if any(other != made[0] for other in made):
        raise GpuError("the results come from different machines or versions")
    about = ", ".join(f"{name} {value}" for name, value in made[0].items())
    rows = [row for model, found in documents.items() for row in _model_rows(model, found)]
    rule = ["---"] * 4 + ["---:"] * (len(HEAD) - 4)
    lines = ["| " + " | ".join(row) + " |" for row in (HEAD, rule, *rows)]
    return "\n\n".join([about + ".", NOTE, "\n".join(lines)])


def _made(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document["machine"], **document["versions"]}


def _model_rows(model: str, documents: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for document in documents:
        concurrency = document["options"]["concurrency"]
        for key, work_of, baseline in (
            ("chat", lambda label, n=concurrency: f"chat, {n} at a time, {label[2]}", _chat_base),
            ("concurrency", lambda label: f"chat, {label[2]} at a time", _chat_base),
            ("score", lambda label: "scoring", _score_base),
        ):
            yield from _rows(model, document[key], work_of, baseline)


def _chat_base(label: tuple[str, ...]) -> tuple[str, ...]:
    return (label[0], _NOTHING, *label[2:])


def _score_base(label: tuple[str, ...]) -> tuple[str, ...]:
    return (_STOCK if label[0] == _STOCK else _CONF, _PREFILL)


def _rows(
    model: str,
    results: Sequence[Mapping[str, Any]],
    work_of: Callable[[tuple[str, ...]], str],
    baseline: Callable[[tuple[str, ...]], tuple[str, ...]],
) -> Iterator[list[str]]:
    samples = {tuple(map(str, result["label"])): result["samples"] for result in results}
    for label, own in samples.items():
        if not own:
            continue
        row = [model, work_of(label), label[0], label[1]]
        for metric in (_tokens_per_second, _api_us_per_token):
            row += _figure(own, samples[baseline(label)], metric)
        yield [*row, str(len(own))]


def _figure(
    own: Sequence[Sample], base: Sequence[Sample], metric: Callable[[Sample], float]
) -> list[str]:
    # Not strict: transformers takes part in the first round only.
    ratios = [metric(one) / metric(other) for one, other in zip(own, base, strict=False)]
    return [f"{median(map(metric, own)):,.0f}", f"{median(ratios):.2f}"]


def _tokens_per_second(sample: Sample) -> float:
    return sample["tokens"] / sample["seconds"]


def _api_us_per_token(sample: Sample) -> float:
    return sample["cpu_seconds"]["api"] / sample["tokens"] * 1e6
