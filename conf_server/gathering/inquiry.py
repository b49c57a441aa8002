"""What a client wants to know, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from conf_server.backends.base import Ask, Caller, Completion
from conf_server.backends.paired import Side

Relevance = Literal["with_question", "answer_only"]


@dataclass(frozen=True)
class Inquiry:
    """A request for estimates.

    Attributes:
        ask: the prompt, and how the samples are to be drawn; the answer is greedy.
        methods: names of methods and of groups of them.
        n_samples: how many samples to draw, where a method wants any.
        similarity: name of the judge; None for the best that there is.
        relevance: whether a token's relevance is told with the question in front of the texts that
            are compared, or from the answer alone.
        rauq_alpha: in place of the one that `rauq` and `rauq_entropy` take for a model like this.
        backend: who has to read prompt and answers once more, for methods that need it; None for
            the engine where it can, and else the scorer.
        length_field: of the client's request, where it says how long an answer may be.
        answer: to be judged in place of one that is generated.
        samples: to be taken in place of drawn ones.
        are_optional: methods that cannot be had are left out and told of, as those of a group are,
            although they are asked for by name.
    """

    ask: Ask
    caller: Caller
    methods: tuple[str, ...]
    n_samples: int
    similarity: str | None = None
    relevance: Relevance = "with_question"
    rauq_alpha: float | None = None
    backend: Side | None = None
    length_field: str | None = None
    answer: Completion | None = None
    samples: tuple[Completion, ...] = ()
    are_optional: bool = False

    @property
    def num_samples(self) -> int:
        """Samples that there will be, given or drawn."""
        return len(self.samples) or self.n_samples
