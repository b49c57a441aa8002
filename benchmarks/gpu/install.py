"""On the CUDA host: parts to wheels to a virtual environment, and a look at whether it works."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu import GpuError, join, workspace
from benchmarks.gpu.workspace import Workspace

# Loads what vLLM's CUDA platform and our worker load, against the torch that is there.
LOOK = """
import torch
import vllm._C_stable_libtorch, vllm._moe_C_stable_libtorch
import vllm.vllm_flash_attn._vllm_fa3_C
import vllm.v1.worker.gpu_worker, vllm.v1.worker.gpu.model_runner
import vllm.v1.attention.backends.flash_attn, vllm.model_executor.models.llama
import conf_server.launcher, conf_server.engine.worker.extension
from importlib.metadata import version
from vllm.v1.attention.backends.fa_utils import get_flash_attn_version
names = "vllm", "conf-server", "torch", "triton", "transformers", "numpy"
print(", ".join(f"{name} {version(name)}" for name in names))
major, minor = torch.cuda.get_device_capability()
print(f"compute capability {major}.{minor}, CUDA {torch.version.cuda}")
print(f"FlashAttention {get_flash_attn_version(head_size=128)}")
torch.zeros(8, device="cuda").exp().cpu()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    workspace.add_arguments(parser)
    parser.add_argument("--no-gpu", action="store_true", help="install only, without a look")


def main(given: argparse.Namespace) -> int:
    install(given.work)
    if not given.no_gpu:
        look(given.work)
    return 0


def install(work: Workspace) -> None:
    """Join and install. What is installed already is left as it is."""
    manifest = join.read_manifest(work.parts) if _has_manifest(work) else None
    if manifest is None:
        raise GpuError(f"carry the parts, {join.MANIFEST} and join.py to {work.parts} first")
    _join(work)
    done = work.venv / "installed.json"
    digest = join.sha256(work.parts / join.MANIFEST)
    if done.is_file() and done.read_text() == digest:
        print(f"install: {work.venv} is up to date")
        return
    check_python(manifest)
    shutil.rmtree(work.venv, ignore_errors=True)
    make_venv(work.venv)
    if manifest["torch_present"]:
        check_torch(work, manifest["torch"])
    install_wheels(work, manifest["install"])
    if problems := unmet(_pip_check(work), manifest):
        raise GpuError("pip misses more than was left out on purpose:\n" + "\n".join(problems))
    done.write_text(digest)
    print(f"install: {len(manifest['install'])} packages in {work.venv}")


def _has_manifest(work: Workspace) -> bool:
    return (work.parts / join.MANIFEST).is_file()


def _join(work: Workspace) -> None:
    try:
        joined = join.join(work.parts, work.wheels)
    except join.PartsError as error:
        raise GpuError(str(error)) from error
    if joined.waiting:
        missing = " ".join(joined.missing) or "none"
        damaged = " ".join(joined.damaged) or "none"
        raise GpuError(f"parts missing: {missing}; damaged: {damaged}")


def check_python(manifest: Mapping[str, Any]) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != manifest["python"]:
        raise GpuError(f"the wheels are for Python {manifest['python']}; this is {running}")


def make_venv(folder: Path) -> None:
    """A virtual environment on top of this Python's packages.

    `--system-site-packages` would show it the packages of the Python that this one's own
    virtual environment was made from, so a .pth file names this one's.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    below = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (packages / "packages_below.pth").write_text("\n".join(below) + "\n")


def check_torch(work: Workspace, wanted: str) -> None:
    found = _run(work, "import importlib.metadata as m; print(m.version('torch'))")
    if found is None or found.partition("+")[0] != wanted:
        raise GpuError(
            f"torch {wanted} should be here, found {found or 'none'}: run prepare with "
            "--torch-present and the version that is, or 'none' to carry one"
        )


def install_wheels(work: Workspace, names: Iterable[str]) -> None:
    """Exactly these, over whatever stands below them."""
    pip = [sys.executable, "-m", "pip", "--python", str(work.python), "install", "--quiet"]
    options = ["--no-index", "--no-deps", "--no-cache-dir", "--ignore-installed"]
    wheels = [str(work.wheels / name) for name in names]
    done = subprocess.run([*pip, *options, "--no-warn-script-location", *wheels], check=False)
    if done.returncode:
        raise GpuError(f"pip failed with status {done.returncode}; the wheels are {work.wheels}")


def unmet(lines: Iterable[str], manifest: Mapping[str, Any]) -> list[str]:
    """What `pip check` says about the packages that were carried and was not to be expected.

    Expected: packages that were left out on purpose, and the target's torch where vLLM
    requires another.
    """
    ours = {_name(wheel.split("-")[0]) for wheel in manifest["install"]}
    expected = set(manifest["left_out"])
    problems = []
    for line in lines:
        said = re.match(r"(\S+) \S+ (?:requires|has requirement) ([A-Za-z0-9._-]+)", line)
        if said and _name(said[1]) in ours and _name(said[2]) not in expected:
            problems.append(line)
    return problems


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _pip_check(work: Workspace) -> list[str]:
    pip = [sys.executable, "-m", "pip", "--python", str(work.python), "check"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise GpuError(f"pip check failed: {done.stderr.strip()}")
    return done.stdout.splitlines()


def look(work: Workspace) -> None:
    """Print the GPU and what runs on it.

    Raises:
        GpuError: no GPU, or vLLM's kernels do not load beside the torch that is here.
    """
    print(gpu_line())
    done = subprocess.run(
        [work.python, "-c", LOOK],
        env=workspace.environment(work),
        cwd=workspace.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise GpuError(f"vLLM does not load here:\n{done.stderr[-3000:]}")
    print(done.stdout.strip())


def gpu_line() -> str:
    """Name, driver and memory, as nvidia-smi says them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise GpuError(f"nvidia-smi finds no GPU: {error}") from error
    return done.stdout.strip()


def _run(work: Workspace, code: str) -> str | None:
    done = subprocess.run([work.python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
