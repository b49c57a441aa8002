"""How plots are saved: as SVG for a page in any colours, as PNG on white. They need matplotlib.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers
tell apart; what differs in colour differs in hatching, line style or place as well.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREY: Final = "#8a8f98"
SERIES: Final = (
    (BLUE, "-", "o"),
    (VERMILION, "--", "s"),
    (GREEN, "-.", "^"),
    (PURPLE, (0, (1, 1)), "D"),
    (ORANGE, (0, (5, 1, 1, 1, 1, 1)), "v"),
    (SKY, (0, (3, 1)), "P"),
)
"""Colour, line style and marker of the first, second, ... thing in a plot."""

INK: Final = "#010203"
"""The colour of text and axes, and of nothing else: a page replaces it by its own."""

SIZE: Final = (4.2, 3.0)
"""Width and height in inches. A page that is narrower than the plot makes its letters smaller."""

STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "conf-server",
    "text.parse_math": False,
}
INKED: Final = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")

_IDS: Final = re.compile(r'(?<= id=")|(?<=href="#)|(?<=url\(#)')
"""Where the name of an id begins, in its element and in those that refer to it."""


@dataclass(frozen=True)
class Plot:
    """Something that can be drawn.

    Attributes:
        draw: draws it on axes of matplotlib's.
        caption: what stands below it.
        alt: what it shows, for those who cannot see it.
        size: width and height in inches.
    """

    draw: Callable[[Any], None]
    caption: str
    alt: str
    size: tuple[float, float] = SIZE

    def svg(self, place: str) -> str:
        """The plot as an element of a page, in the colour of its text and without a background.

        Args:
            place: a word that no other plot of the page has: all of matplotlib's have the same ids.
        """
        text = io.StringIO()
        style = STYLE | dict.fromkeys(INKED, INK)
        self._save(style, text, format="svg", transparent=True, metadata={"Date": None})
        element = text.getvalue()
        element = element[element.index("<svg ") :].replace(INK, "currentColor")
        element = _IDS.sub(rf"\g<0>{place}-", element)
        label = escape(self.alt)
        return element.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)

    def png(self, path: Path) -> None:
        """Write the plot to a file, on white."""
        self._save(STYLE, path, format="png", dpi=160, facecolor="white")

    def _save(self, style: dict[Any, Any], target: Any, **options: Any) -> None:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(style), warnings.catch_warnings():
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure.add_subplot())
            # Our fonts only measure the text of an SVG; the reader's own show it.
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            figure.savefig(target, **options)
