"""Says how far a call with many texts has come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = bool | Callable[[int, int], object] | None
"""True shows a bar on stderr; a function gets how many texts are done, and of how many."""


@contextlib.contextmanager
def reporting(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    """A function that takes how many more texts are done."""
    if not progress:
        yield lambda more: None
    elif callable(progress):
        yield _Counter(progress, total).add
    else:
        from tqdm import tqdm  # type: ignore[import-untyped]

        with tqdm(total=total, unit="text") as bar:
            yield lambda more: bar.update(more)


class _Counter:
    def __init__(self, report: Callable[[int, int], object], total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, more: int) -> None:
        self._done += more
        self._report(self._done, self._total)
