"""install, models, test and bench, each as far as the budget goes."""

from __future__ import annotations

import argparse

from benchmarks.gpu import bench, install, models, test
from benchmarks.gpu.steps import Budget


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bench.add_arguments(parser)


def main(given: argparse.Namespace) -> int:
    """The first status that is not 0: what fails in the tests is not worth measuring."""
    budget = Budget(given.budget_seconds)
    install.install(given.work)
    install.look(given.work)
    models.main(given)
    return test.test(given, budget) or bench.bench(given, budget)
