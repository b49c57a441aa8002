"""Where things lie on the CUDA host, and what its processes find in their environment."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = "SmolLM2-135M-Instruct"

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # FlashInfer and DeepGEMM are not carried, and vLLM expects both on Hopper.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_USE_DEEP_GEMM": "0",
}


@dataclass(frozen=True)
class Workspace:
    """The folders below `--work`."""

    root: Path

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    @property
    def venv(self) -> Path:
        return self.root / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def embedded_model(self) -> Path:
        return self.models / MODEL


def environment(work: Workspace) -> dict[str, str]:
    """For the servers and tests: ours over the caller's, and the venv's commands first."""
    path = os.pathsep.join([str(work.python.parent), os.environ["PATH"]])
    return {**os.environ, **ENVIRONMENT, "PATH": path}


def resolved(text: str) -> Path:
    """For arguments: steps run in the checkout, wherever we were started."""
    return Path(text).resolve()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work",
        type=lambda text: Workspace(resolved(text)),
        default=Workspace(ROOT / "build" / "gpu"),
        help="folder of parts, wheels, venv and models (default: build/gpu)",
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=resolved, required=True, help="folder for logs and results")
    add("--budget-seconds", type=float, default=540, help="end before this (default: 540)")
