"""The package as it is published, built from a copy of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*words: str | Path) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *words)


def copy_of_checkout(folder: Path) -> Path:
    """The files that git has or would take: setuptools leaves its traces beside them."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it, as `make dist` has them."""
    sources = copy_of_checkout(folder / "sources")
    out = folder / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, sources)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel
