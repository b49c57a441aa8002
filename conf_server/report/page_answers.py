"""The answers that a method is most mistaken about, as the page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from conf_server.report.answers import NO_ANSWER
from conf_server.report.examples import Example, Examples
from conf_server.report.headline import percent
from conf_server.report.markup import plain, stranger

_SAID: Final[Mapping[str | None, str]] = {
    None: '<p class="soft">not in the file</p>',
    NO_ANSWER: '<p class="soft">none</p>',
}
"""Instead of an answer's text."""


def two_lists(examples: Examples) -> Iterator[str]:
    """The most confident wrong answers, and the least confident right ones beside them."""
    yield '<div class="pair">'
    yield from _list("Most confident, and wrong", "wrong", examples.confident_wrong, examples)
    yield from _list("Least confident, and right", "right", examples.unsure_right, examples)
    yield "</div>"


def _list(title: str, kind: str, found: Sequence[Example], examples: Examples) -> Iterator[str]:
    yield f'<div class="{kind}"><h3>{title}</h3>'
    if not found:
        yield f'<p class="soft">No {kind} answer has a value.</p>'
    for example in found:
        yield from _card(example, examples.method)
    yield "</div>"


def _card(example: Example, method: str) -> Iterator[str]:
    answer = example.answer
    yield '<article class="answer"><dl class="facts">'
    if answer.question is not None:
        yield f"<dt>question</dt><dd>{stranger(answer.question)}</dd>"
    said = _SAID.get(answer.text) or stranger(answer.text or NO_ANSWER)
    yield f'<dt>answer</dt><dd class="said">{said}</dd>'
    if references := answer.label.references if answer.label else ():
        yield f"<dt>reference</dt><dd>{''.join(map(stranger, references))}</dd>"
    elif answer.label is not None:
        yield "<dt>label</dt><dd><code>correct</code> in the line</dd>"
    name = f", id {answer.name}" if answer.name else ""
    place = f"line {answer.line}" + (f", answer {answer.index + 1}" if answer.index else "")
    yield (
        f'</dl><p class="value"><code>{plain(method)}</code> {example.value:.4g}: surer than '
        f"{percent(example.surer_than)} of the answers. {plain(place + name)}</p></article>"
    )
