"""What memory a server's processes hold, and how fast it grows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import psutil
from numpy.typing import ArrayLike, NDArray

MB: Final = 1e6
LEVEL_SHARE: Final = 0.01
"""A process whose second half added less than this share of its memory has levelled off."""


@dataclass(frozen=True)
class Memory:
    """What one role of a server holds at one moment, in bytes, summed over its processes.

    Attributes:
        role: `api`, `engine` or `worker`.
        requests: requests that the server had ended by then.
        seconds: how long it had been under load by then.
        uss: pages that nobody else maps. This is what grows by allocations.
        pss: `uss`, and a fair share of the pages that others map too.
        rss: `uss`, and every such page in full: libraries, and the shared memory through
            which vLLM's engine and workers talk.
    """

    role: str
    requests: int
    seconds: float
    uss: int
    pss: int
    rss: int


@dataclass(frozen=True)
class Growth:
    """How the memory of one role went over a run. All slopes are of `uss`.

    Attributes:
        start: of all kinds of memory, before the first request.
        end: after the last.
        first_half: MB per 1,000 requests, over the first half of the requests.
        second_half: the same over the second half.
        per_minute: MB per minute under load, over the second half.
        added: MB that the second half added, as its slope says.
    """

    start: Memory
    end: Memory
    first_half: float
    second_half: float
    per_minute: float
    added: float

    @property
    def is_level(self) -> bool:
        return self.added < LEVEL_SHARE * self.end.uss / MB


def measured(processes: dict[str, list[int]], requests: int, seconds: float) -> list[Memory]:
    """Memory of each role that has a process.

    Raises:
        psutil.NoSuchProcess: one has ended.
    """
    found = []
    for role, pids in processes.items():
        if pids:
            each = [psutil.Process(pid).memory_full_info() for pid in pids]
            uss, pss, rss = (sum(getattr(info, name) for info in each) for name in _KINDS)
            found.append(Memory(role, requests, seconds, uss, pss, rss))
    return found


_KINDS: Final = ("uss", "pss", "rss")


def growth(samples: Iterable[Memory]) -> dict[str, Growth]:
    """Growth of each role, from its samples in their order, of which it needs six at least."""
    by_role: dict[str, list[Memory]] = {}
    for sample in samples:
        by_role.setdefault(sample.role, []).append(sample)
    return {role: _growth(of_role) for role, of_role in by_role.items()}


def _growth(samples: Sequence[Memory]) -> Growth:
    middle = samples[-1].requests / 2
    first = [sample for sample in samples if sample.requests <= middle]
    second = [sample for sample in samples if sample.requests >= middle]
    uss = [sample.uss / MB for sample in second]
    per_request = slope([sample.requests for sample in second], uss)
    return Growth(
        start=samples[0],
        end=samples[-1],
        first_half=1e3
        * slope([sample.requests for sample in first], [sample.uss / MB for sample in first]),
        second_half=1e3 * per_request,
        per_minute=60 * slope([sample.seconds for sample in second], uss),
        added=per_request * (second[-1].requests - second[0].requests) if second else 0.0,
    )


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Median of the slopes between all pairs of points (Theil 1950, Sen 1968).

    A jump, such as a buffer that is made once, and a peak move it far less than they move
    least squares.

    Returns:
        NaN where no two points differ in `x`.
    """
    xs: NDArray[np.floating] = np.asarray(x, np.float64)
    ys: NDArray[np.floating] = np.asarray(y, np.float64)
    i, j = np.triu_indices(len(xs), 1)
    apart = xs[j] != xs[i]
    if not apart.any():
        return float("nan")
    i, j = i[apart], j[apart]
    return float(np.median((ys[j] - ys[i]) / (xs[j] - xs[i])))
