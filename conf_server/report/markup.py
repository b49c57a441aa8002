"""Small pieces of HTML: texts of strangers, made harmless and folded where they are long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

LONGEST_SHOWN: Final = 260
"""Characters of a text that stands on the page unfolded."""

MOST_LINES: Final = 6
"""Lines of one."""

LONGEST_KEPT: Final = 4000
"""Characters of a text that the page holds at all."""

_CONTROLS: Final = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
"""What no HTML may hold, and UTF-8 cannot (half a surrogate pair)."""


def text_of(text: str) -> str:
    """A text as HTML; what is between backticks is code."""
    shown = plain(text).replace(" %", "\N{NO-BREAK SPACE}%")
    return re.sub("`([^`]+)`", r"<code>\1</code>", shown)


def plain(text: str) -> str:
    """A text as HTML, and nothing else."""
    return escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))


def stranger(text: str) -> str:
    """A text of the file, in its own direction; the rest of a long one is a click away."""
    if len(text) <= LONGEST_SHOWN and text.count("\n") < MOST_LINES:
        return f'<p dir="auto">{plain(text)}</p>'
    start = plain(" ".join(text[: 2 * LONGEST_SHOWN].split())[:LONGEST_SHOWN])
    whole = plain(text[:LONGEST_KEPT])
    cut = len(text) - LONGEST_KEPT
    rest = f'<p class="soft">{cut} characters more are in the file.</p>' if cut > 0 else ""
    return (
        f'<details class="text"><summary dir="auto"><span class="start">{start} … </span>'
        '<span class="start more">whole text</span><span class="less more">less</span></summary>'
        f'<p dir="auto">{whole}</p>{rest}</details>'
    )


def paragraphs(texts: Iterable[str]) -> Iterator[str]:
    """A paragraph each."""
    yield from (f"<p>{text_of(text)}</p>" for text in texts)


def bullets(texts: Sequence[str]) -> Iterator[str]:
    """A list of sentences; nothing where there are none."""
    if texts:
        yield "<ul>"
        yield from (f"<li>{text_of(text)}</li>" for text in texts)
        yield "</ul>"


def facts(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms and what is to be said of each."""
    yield '<dl class="facts">'
    yield from (f"<dt>{plain(term)}</dt><dd>{plain(text)}</dd>" for term, text in pairs)
    yield "</dl>"


def anchor(name: str, number: int, prefix: str) -> str:
    """The name of a method's place on the page: its own where that is one word."""
    return f"{prefix}{name if re.fullmatch('[A-Za-z0-9_]+', name) else f'method-{number}'}"
