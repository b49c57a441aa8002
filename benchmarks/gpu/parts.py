"""Cuts a folder's files into parts that are small enough to be carried. `join.py` joins them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.gpu import join

PART_BYTES = 60 * 2**20
_BLOCK = 2**20


class _Parts:
    """One stream of bytes, cut into files of `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._file: BinaryIO | None = None
        self.made: list[dict[str, Any]] = []

    def write(self, block: bytes) -> Iterator[tuple[str, int, int]]:
        """Part, offset in it and size of each piece that the block was cut into."""
        while block:
            if self._file is None:
                self._begin()
            part = self.made[-1]
            piece = block[: self._limit - part["size"]]
            assert self._file is not None
            self._file.write(piece)
            self._digest.update(piece)
            yield part["name"], part["size"], len(piece)
            part["size"] += len(piece)
            block = block[len(piece) :]
            if part["size"] == self._limit:
                self.end()

    def _begin(self) -> None:
        name = f"part-{len(self.made):03}"
        self.made.append({"name": name, "size": 0, "sha256": ""})
        self._digest = hashlib.sha256()
        self._file = (self._folder / name).open("wb")

    def end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.made[-1]["sha256"] = self._digest.hexdigest()


def split(
    folder: Path, out: Path, about: Mapping[str, Any], limit: int = PART_BYTES
) -> dict[str, Any]:
    """Write `folder`'s files as parts, their manifest and `join.py` into `out`.

    Small files share a part: the files stand one after the other in one stream of bytes, and
    that is what is cut.

    Args:
        out: made anew; what was there is removed.
        about: what else the manifest shall say.
        limit: bytes of a part at most.

    Returns:
        The manifest: `about`; `files`, each with name, size, sha256 and pieces (part, offset,
        size); `parts`, each with name, size and sha256.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    parts = _Parts(out, limit)
    files = [_file(path, parts) for path in sorted(folder.iterdir())]
    parts.end()
    manifest = {**about, "files": files, "parts": parts.made}
    (out / join.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copy(join.__file__, out / "join.py")
    return manifest


def _file(path: Path, parts: _Parts) -> dict[str, Any]:
    pieces: list[dict[str, Any]] = []
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for part, offset, size in parts.write(block):
                if pieces and pieces[-1]["part"] == part:
                    pieces[-1]["size"] += size
                else:
                    pieces.append({"part": part, "offset": offset, "size": size})
    size = path.stat().st_size
    return {"name": path.name, "size": size, "sha256": join.sha256(path), "pieces": pieces}
