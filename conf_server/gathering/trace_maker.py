"""Who makes the traces of a question that is thought about many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from conf_server.stats.early_stop import EarlyStop

Watch = Callable[[NDArray], None]
"""Gets the confidences of a trace's new tokens, (m,) nats, as they are made."""


@dataclass(frozen=True)
class TraceOrder:
    """One trace that is to be made.

    Attributes:
        index: its number, from 0.
        seed: of its sampling; None where the request has none.
        max_tokens: that it may have.
        early_stop: when it is ended for its low confidence; None for never.
    """

    index: int
    seed: int | None
    max_tokens: int
    early_stop: EarlyStop | None


@dataclass(frozen=True)
class MadeTrace:
    """A trace that has ended.

    Attributes:
        text: what is read for an answer: without the reasoning, where a parser knows it.
        confidence: (n,) nats of its tokens; None where they are not known of all.
        certainty: (n,) likewise, the divergence of each token's distribution from the flat one,
            KL(uniform || p): self-certainty as Kang et al. have it (arXiv 2502.18581), higher =
            surer.
        num_tokens: that were generated.
        finish_reason, stop_reason: as vLLM says them; `abort` for one that was ended by `end`.
        source: what the maker knows of it, for `TraceMaker.answer`.
    """

    text: str
    confidence: NDArray | None
    certainty: NDArray | None
    num_tokens: int
    finish_reason: str | None
    stop_reason: str | int | None
    source: Any


class NoRoomError(Exception):
    """The model has no room for a trace now. Its cause is what the client hears if none comes."""


class TraceMaker(Protocol):
    """Makes the traces of one question, whose prompt has been rendered and checked."""

    async def make(self, order: TraceOrder, watch: Watch | None) -> MadeTrace:
        """Make a trace. Cancelling the caller ends the work.

        Args:
            watch: who wants to see the trace grow; None for nobody.

        Raises:
            RefusalError: the model refuses.
            NoRoomError: it has no room now.
        """
        ...

    def end(self, index: int) -> None:
        """Let a running trace end now; `make` returns what there is of it."""
        ...
