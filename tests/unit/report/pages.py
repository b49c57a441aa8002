"""The page that a report writes, taken apart."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from conf_server.report.command import main
from tests.unit.report.files import write

BLOCKS = {*("p", "tr", "div", "article", "br", "li", "dt", "dd", "td", "th", "summary", "details")}
BLOCKS |= {"figcaption", "h1", "h2", "h3"}
EMPTY = {"meta", "br", "img", "path", "use", "rect"}


class Page(HTMLParser):
    """What a page is made of.

    Attributes:
        tags: every element that begins.
        links: what elements point at.
        ids: the places that a link can lead to.
        handlers: attributes that run a script.
        rows: the cells of tables in words, folded ones left out.
        text: the words of the page, without scripts, styles and pictures, one blank apart.
        by_class: the words of the elements of each class, in order.
        open_folds: how many folds are open from the start.
    """

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.rows: list[list[str]] = []
        self.by_class: dict[str, list[str]] = {}
        self.open_folds = 0
        self._words: list[str] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(markup)
        self.close()
        self.text = " ".join("".join(self._words).split())
        self.by_class = {
            name: [" ".join(one.split()) for one in found] for name, found in self.by_class.items()
        }

    def row(self, name: str) -> list[str]:
        (found,) = (row for row in self.rows if row[0] == name)
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._part(tag)
        self.tags.append(tag)
        self.links += [given[name] for name in ("src", "href", "xlink:href") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.handlers += [name for name in given if name.startswith("on")]
        self.open_folds += tag == "details" and "open" in given
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in EMPTY:
            classes = given.get("class", "").split()
            self._open.append((tag, classes))
            for name in classes:
                self.by_class.setdefault(name, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        self._part(tag)
        if tag not in EMPTY:
            assert self._open.pop()[0] == tag

    def _part(self, tag: str) -> None:
        """Part the words before a block from those behind its border."""
        if tag in BLOCKS:
            self._words.append(" ")
            for name in (name for _, classes in self._open for name in classes):
                self.by_class[name][-1] += " "

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self._open]
        if {"script", "style", "svg"} & set(inside):
            return
        self._words.append(data)
        for _, classes in self._open:
            for name in classes:
                self.by_class[name][-1] += data
        if {"td", "th"} & set(inside) and "details" not in inside[inside.index("tr") :]:
            self.rows[-1][-1] += data


def report(folder: Path, *lines: Any, flags: tuple[str, ...] = ()) -> Page:
    path = write(folder, *lines)
    assert main([path, "-o", str(folder / "r.html"), *flags]) == 0
    return Page((folder / "r.html").read_text())
