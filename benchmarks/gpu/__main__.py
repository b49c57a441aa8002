"""conf-server on a CUDA host without a network.

prepare  on a host with a package index: download, slim and cut into parts
install  on the CUDA host: join the parts, install, check
models   make the model folders
test     run the GPU tests, an end-to-end check, and time the statistics kernel
bench    run the benchmarks and write one table
all      install, models, test and bench
"""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks.gpu import GpuError, bench, everything, install, models, prepare, test

COMMANDS = {
    "prepare": prepare,
    "install": install,
    "models": models,
    "test": test,
    "bench": bench,
    "all": everything,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name))
    given = parser.parse_args()
    # A shell's background jobs ignore SIGINT, and so would ours, which are ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return COMMANDS[given.command].main(given)
    except GpuError as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
