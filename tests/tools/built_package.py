"""The package as it is published, built from a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environ() -> dict[str, str]:
    """Of a process that is not to see the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; it has to succeed."""
    command = [*map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environ())
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


def conf_server(bin_folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command of an environment, away from the checkout."""
    command = [str(bin_folder / "conf-server"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environ(), cwd=bin_folder, timeout=120
    )
