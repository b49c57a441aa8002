"""What an estimate is spending, and how far it has come, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is."""


class Stages:
    """Tokens and seconds of one request, by stage.

    Attributes:
        tokens: prompt and completion tokens that the engine has worked on.
        seconds: from a stage's first moment to its last; stages may run side by side.
    """

    def __init__(self, progress: Progress) -> None:
        self.tokens: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = {}
        self._progress = progress

    def spend(self, stage: str, prompt: int, completion: int = 0) -> None:
        """Count tokens."""
        entry = self.tokens.setdefault(stage, {"prompt_tokens": 0, "completion_tokens": 0})
        entry["prompt_tokens"] += prompt
        entry["completion_tokens"] += completion

    def total(self, kind: str) -> int:
        """`prompt_tokens` or `completion_tokens` of all stages."""
        return sum(entry[kind] for entry in self.tokens.values())

    @contextmanager
    def stage(self, name: str, count: int = 1) -> Iterator[Callable[[], None]]:
        """Time a stage and tell its progress; yields what to call as one of `count` is done."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self._progress(name, done, count)

        self._progress(name, 0, count)
        start = time.perf_counter()
        yield advance
        self.seconds[name] = round(time.perf_counter() - start, 6)
        if done < count:
            self._progress(name, count, count)
