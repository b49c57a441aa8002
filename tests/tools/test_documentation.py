"""The documentation names files, sections and flags that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("patches/**/*.md")])
ABOUT_THE_CODE = ("docs/token.md", "docs/methods.md", "docs/vllm.md")
PLACEHOLDERS = ("PACKAGE", "MODULE", "NAME")
NOT_OURS = ("launchers/api_server/entry.py", "cli/serve.py", "answer_length.py")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the sections of a page."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in kept}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"),
    list(links()),
    ids=lambda part: part.name if isinstance(part, Path) else part,
)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = page.parent / path if path else page
    assert linked.exists()
    assert not anchor or anchor in anchors(linked)


def named_files() -> Iterator[tuple[str, str]]:
    """Paths of Python files between backticks."""
    for page in ABOUT_THE_CODE:
        for path in re.findall(r"`([\w/]+\.py)`", prose(ROOT / page)):
            if path not in NOT_OURS and not any(word in path for word in PLACEHOLDERS):
                yield page, path


@pytest.mark.parametrize(("page", "path"), sorted(set(named_files())))
def test_a_file_that_is_named_is_there(page: str, path: str) -> None:
    """With its folder from the root or from conf_server, or with its name alone."""
    places = [ROOT / path, ROOT / "conf_server" / path]
    known = any(place.is_file() for place in places)
    assert known or ("/" not in path and list((ROOT / "conf_server").rglob(path)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_merge_has_left_its_marks(page: Path) -> None:
    assert not re.search(r"^(<<<<<<<|>>>>>>>)", page.read_text(), flags=re.MULTILINE)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", index)}
    assert set(PAGES) <= listed | {ROOT / "docs/README.md"}
