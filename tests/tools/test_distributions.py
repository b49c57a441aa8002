"""What is published: an sdist and a wheel that an index takes, whole, and with links that work."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from conf_server import __version__
from tests.tools.built_package import ROOT, pip, run


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"conf_server-{__version__}.dist-info/METADATA"))


def test_an_index_takes_them(sdist: Path, wheel: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    assert said.count("PASSED") == 2


def test_the_wheel_has_the_package_alone_with_its_types_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"conf_server-{__version__}.dist-info"
    assert {"conf_server/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert {name.split("/")[0] for name in names} == {"conf_server", info}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "conf_server").rglob("*.py")}
    assert modules <= names


def test_the_sdist_has_documentation_tests_and_deployment(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pages = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")}
    wanted = {"CHANGELOG.md", "Makefile", "deploy/systemd/install.py", "tests/devices.py"}
    assert pages | wanted <= names
    assert not [name for name in names if name.startswith((".venv", ".cache", "build/"))]


def test_no_link_of_the_page_is_relative(metadata: Message) -> None:
    """An index shows the text, and has none of the files beside it."""
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert page.startswith("# conf-server\n")
    targets = re.findall(r"\]\(([^)]*)\)|(?:href|src)=\"([^\"]*)\"|^\[[^\]]+\]: *(\S+)", page, re.M)
    assert not ["".join(found) for found in targets if "://" not in "".join(found)]


def test_the_metadata_says_who_what_and_for_whom(metadata: Message) -> None:
    assert metadata["Author"] == "The conf-server maintainers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "uncertainty" in metadata["Keywords"].split(",")
    classifiers = metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    assert "Operating System :: POSIX :: Linux" in classifiers


def test_the_sdist_can_be_installed(sdist: Path, tmp_path: Path) -> None:
    pip("install", "--no-index", "--no-deps", "--no-build-isolation", "--target", tmp_path, sdist)
    assert (tmp_path / "conf_server" / "py.typed").is_file()
