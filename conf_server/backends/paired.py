"""An engine that answers, and a scorer that reads what the engine cannot.

Nobody but the engine answers. A text that somebody else wrote is read by the engine where it can
do what is wanted, and by the scorer where it cannot. Whoever has to know beforehand asks `Readers`,
which is plain data, and then takes the side that it has chosen.

A scorer may run another model than the engine. Token ids of the one mean nothing to the other:
texts for it are prepared by it, from messages and from text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from conf_server.backends.base import (
    Answers,
    Ask,
    Backend,
    Caller,
    ForcingBackend,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
    Limits,
    Rendered,
)
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    WantedRows,
    WantedStates,
)

NO_SCORER: Final = "there is no scorer: start with --scorer transformers"
ANOTHER_MODEL: Final = "the scorer runs another model, and what it says of it has other tokens"


class Side(StrEnum):
    """Who reads a text."""

    ENGINE = "engine"
    SCORER = "scorer"


Obstacle = Callable[[Limits], str | None]
"""Why somebody with such limits cannot do what is wanted; None for one who can."""


@dataclass(frozen=True)
class Choice:
    """Who does it.

    Attributes:
        side: None where nobody can.
        reasons: why those cannot who come before it, by their side.
    """

    side: Side | None
    reasons: Mapping[Side, str]

    @property
    def reason(self) -> str:
        """Why nobody can, in one sentence."""
        texts = dict.fromkeys(self.reasons.values())
        return "; and the scorer: ".join(texts)


@dataclass(frozen=True)
class Readers:
    """Those who can read a text, and what they can.

    Attributes:
        scorer: None where there is none.
        scorer_obstacle: why no text of a request may go to the scorer; None where it may.
        same_model: the scorer runs the engine's model.
    """

    engine: Limits
    scorer: Limits | None = None
    scorer_obstacle: str | None = None
    same_model: bool = True

    def choose(
        self, obstacle: Obstacle, only: Side | None = None, *, any_model: bool = False
    ) -> Choice:
        """Who does what is wanted: the engine if it can, else the scorer.

        Args:
            only: the one that is asked for; None for the first that can.
            any_model: what is wanted makes sense of another model than the engine's, too.
        """
        reasons: dict[Side, str] = {}
        for side in Side:
            if only not in (None, side):
                continue
            reason = (
                obstacle(self.engine)
                if side is Side.ENGINE
                else self._not_by_scorer(obstacle, any_model)
            )
            if reason is None:
                return Choice(side, reasons)
            # Whoever has no scorer is told of the engine alone.
            if side is Side.ENGINE or only is side or self.scorer is not None:
                reasons[side] = reason
        return Choice(None, reasons)

    def _not_by_scorer(self, obstacle: Obstacle, any_model: bool) -> str | None:
        if self.scorer is None:
            return NO_SCORER
        if self.scorer_obstacle is not None:
            return self.scorer_obstacle
        if not self.same_model and not any_model:
            return ANOTHER_MODEL
        return obstacle(self.scorer)

    def for_model(self, model: str | None) -> Readers:
        """The same for a request to a served model. An adapter's weights are the engine's alone."""
        if model not in self.engine.adapters:
            return self
        return replace(self, scorer_obstacle=f"it has the model itself, not its adapter {model}")


class PairedBackend:
    """A `Backend` of two.

    Attributes:
        same_model: the scorer runs the engine's model.
    """

    def __init__(self, engine: Backend, scorer: ForcingBackend, *, same_model: bool) -> None:
        self.same_model = same_model
        self._engine = engine
        self._scorer = scorer

    def limits(self) -> Limits:
        """The engine's; `readers` tells both."""
        return self._engine.limits()

    def readers(self) -> Readers:
        """What either can read."""
        return Readers(self._engine.limits(), self._scorer.limits(), same_model=self.same_model)

    def side(self, side: Side) -> ForcingBackend:
        """One of the two."""
        return self._engine if side is Side.ENGINE else self._scorer

    # Answers, and tokens and their texts: the engine's.

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        return await self._engine.check(ask, caller)

    async def generate(self, ask: Ask, wanted: WantedRows, caller: Caller) -> Answers:
        return await self._engine.generate(ask, wanted, caller)

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        return self._engine.decode(rows, context)

    def text_of(self, token_ids: Sequence[int]) -> str:
        return self._engine.text_of(token_ids)

    def is_special(self, token_id: int) -> bool:
        return self._engine.is_special(token_id)

    # Texts that somebody else wrote. Their tokens are those of the engine's model.

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        return await self._reader(_not_forced, Caller("")).prepare(items)

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        return await self._reader(_not_forced, caller).force(jobs, wanted, caller)

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        def obstacle(limits: Limits) -> str | None:
            return states_obstacle(limits, wanted)

        return await self._reader(obstacle, caller).states(jobs, wanted, caller)

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        return await self._reader(_not_forced, caller).labels(questions, caller, advance)

    def _reader(self, obstacle: Obstacle, caller: Caller) -> ForcingBackend:
        """Who does it; where nobody can, the engine, which refuses it in its own words."""
        choice = self.readers().for_model(caller.model).choose(obstacle)
        return self.side(choice.side or Side.ENGINE)


def _not_forced(limits: Limits) -> str | None:
    return limits.forcing


def states_obstacle(limits: Limits, wanted: WantedStates) -> str | None:
    """Why hidden states, or weights of a layer, are not there; None where they are."""
    if limits.states is not None:
        return limits.states
    layers = () if wanted.attention is None else wanted.attention.layers
    for layer in layers:
        if reason := limits.attention[layer]:
            return f"layer {layer}: {reason}"
    return None


def readers_of(backend: Backend) -> Readers:
    """Those behind a backend: two if it is a pair."""
    if isinstance(backend, PairedBackend):
        return backend.readers()
    return Readers(backend.limits())


def side_of(backend: Backend, side: Side) -> ForcingBackend:
    """One of those behind a backend."""
    return backend.side(side) if isinstance(backend, PairedBackend) else backend
