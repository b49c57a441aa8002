"""What a report was made with, so that its figures can be made again."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from conf_server import __version__
from conf_server.report.resampling import RESAMPLES


def made_with(seed: int) -> list[tuple[str, str]]:
    """Terms and facts.

    Args:
        seed: of the bootstrap and of the shuffles.
    """
    return [
        ("version of the server", "not recorded"),
        ("report made with", f"conf-server {__version__}, {_libraries()}"),
        ("bootstrap", f"{RESAMPLES} resamples and as many shuffles, seed {seed}"),
    ]


def _libraries() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("numpy", "matplotlib"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)
