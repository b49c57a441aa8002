"""The page of a report: one file, and whatever a file holds is harmless on it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from conf_server.report.command import main
from tests.unit.report.files import good_lines, uncertainty, write
from tests.unit.report.pages import Page, report

METHOD_PLOTS, OVERVIEWS = 3, 3
"""Distribution, risk-coverage, reliability; forest, risk-coverage, correlations."""


def test_the_page_is_one_file(tmp_path: Path) -> None:
    page = report(tmp_path, *good_lines())
    assert page.tags.count("svg") == 3 * METHOD_PLOTS + OVERVIEWS
    assert "link" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    text = (tmp_path / "r.html").read_text()
    assert "<script src" not in text
    assert "fetch(" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text
    for element in text.split("<svg ")[1:]:
        ElementTree.fromstring("<svg " + element.split("</svg>")[0] + "</svg>")


def test_links_lead_to_places_on_it_and_no_place_is_there_twice(tmp_path: Path) -> None:
    files = [write(tmp_path, *good_lines(30), name=f"{name}.jsonl") for name in ("a", "b")]
    assert main([*files, "-o", str(tmp_path / "both.html")]) == 0
    for page in (report(tmp_path, *good_lines()), Page((tmp_path / "both.html").read_text())):
        assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))


def test_details_are_folded(tmp_path: Path) -> None:
    page = report(tmp_path, *good_lines())
    assert page.open_folds == 0
    assert [one.split()[0] for one in page.by_class["method"]] == [
        "perplexity",
        "surety",
        "semantic_entropy",
    ]


def test_names_from_the_file_are_no_markup(tmp_path: Path) -> None:
    name = '<img src="x"> $\\frac$'
    lines = [uncertainty(estimates={name: n}, correct=n > 2) for n in range(5)]
    page = report(tmp_path, *lines, flags=("--title", "<img>", "--png", str(tmp_path / "p")))
    assert "img" not in page.tags
    assert page.rows[1][0] == name


def test_texts_from_the_file_are_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)></p></details> \x00 \ud800"
    fields = {"prompt": evil, "reference": evil, "id": evil}
    lines = [uncertainty(text=f"{n} {evil}", estimates={"a": n}, **fields) for n in range(6)]
    lines[0]["result"]["answer"]["text"] = evil
    page = report(tmp_path, *lines, flags=("--match", "exact"))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not page.handlers
    assert "<script>alert(1)</script><img src=x onerror=alert(1)>" in page.text


def test_what_was_run(tmp_path: Path) -> None:
    line = {**uncertainty(correct=True, estimates={"a": 1}), "server": "smol --fitted folder --x"}
    line["result"] |= {"created": 1795722057, "similarity": "rouge_l", "clusters": [0, 0, 1]}
    path = write(tmp_path, {"prompt": "Why?", "seed": 7}, name="in.jsonl")
    text = report(tmp_path, line, flags=("--questions", path)).text
    assert "answered 2026-11-26 19:40 UTC" in text
    assert "model m" in text
    assert "samples an answer 3" in text
    assert "similarity rouge_l" in text
    assert "seeds of the requests 7" in text
    assert "fitted methods folder" in text
    assert "temperature of the samples not recorded" in text
