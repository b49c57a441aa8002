"""The page of a report."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tests.unit.report.files import good_lines, uncertainty
from tests.unit.report.pages import report


def test_the_page_is_one_file(tmp_path: Path) -> None:
    page = report(tmp_path, *good_lines())
    assert page.tags.count("svg") == 3 * 3 + 1
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    text = (tmp_path / "r.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for element in text.split("<svg ")[1:]:
        ElementTree.fromstring("<svg " + element.split("</svg>")[0] + "</svg>")


def test_names_from_the_file_are_no_markup(tmp_path: Path) -> None:
    name = '<img src="x"> $\\frac$'
    lines = [uncertainty(estimates={name: n}, correct=n > 2) for n in range(5)]
    page = report(tmp_path, *lines, flags=("--title", "<img>", "--png", str(tmp_path / "p")))
    assert "img" not in page.tags
    assert page.rows[1][0] == name
