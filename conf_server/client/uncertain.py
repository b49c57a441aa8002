"""What `/v1/uncertainty` and `/v1/uncertainty/methods` answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conf_server.client.results import Results, frame
from conf_server.client.tokens import Json

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Estimate:
    """One method's verdict.

    Attributes:
        value: None where the method found nothing to go by.
        exact: false where it was computed from less than the method is defined on.
        higher_is: "more uncertain"; "less uncertain" only of a method that another package added.
        details: what else the method has found out; None for nothing.
        backend: "scorer" where a scorer has read for it, "engine" where not.
    """

    value: float | None
    exact: bool
    higher_is: str
    details: Json | None
    backend: str


@dataclass(frozen=True)
class Answer:
    """The answer that is judged.

    Attributes:
        finish_reason: why it ends; None where the caller gave it and it is not `finished`.
        num_tokens: tokens, its end token included where it was generated.
    """

    text: str
    finish_reason: str | None
    num_tokens: int


@dataclass(frozen=True)
class Sample:
    """One further answer, and the sums of its own.

    Attributes:
        num_tokens: tokens that its sums are over.
        logprob, mean_logprob: in nats; None for a given sample that no method has scored.
        cluster: number of its meaning; None where no method has told meanings apart.
    """

    text: str
    finish_reason: str | None
    num_tokens: int | None
    logprob: float | None
    mean_logprob: float | None
    cluster: int | None

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        return dict(vars(self))


@dataclass(frozen=True)
class Uncertainty:
    """An answer and how sure the model was of it.

    Attributes:
        model: who was asked: served name or LoRA adapter.
        estimates: by method.
        unavailable: methods that could not be done for this answer, and why.
        similarity: who compared the texts; None where nobody had to.
        samples: with `return_samples`.
        clusters: number of each sample's meaning, where meanings were told apart.
        usage: tokens that were worked on, in sum and by stage.
        timings: seconds by stage.
        raw: what the server has sent.
    """

    model: str
    answer: Answer
    estimates: Mapping[str, Estimate]
    unavailable: Mapping[str, str]
    similarity: str | None
    samples: Results[Sample] | None
    clusters: tuple[int, ...] | None
    usage: Json
    timings: Mapping[str, float]
    raw: Json = field(repr=False)

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each method.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame([{"method": name, **vars(one)} for name, one in self.estimates.items()])

    def row(self) -> dict[str, Any]:
        """Its row in a table: the answer, and a column for each method."""
        values = {name: one.value for name, one in self.estimates.items()}
        return {"answer": self.answer.text, "num_tokens": self.answer.num_tokens, **values}


@dataclass(frozen=True)
class Method:
    """A method that a server knows.

    Attributes:
        description: one line for people.
        needs: kinds of evidence that it reads.
        source: the paper or the code that defines the number.
        higher_is: what a higher value means.
        groups: groups that it belongs to.
        available: whether this server can do it.
        reason: why not, and what would mend that.
        raw: what the server has sent.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    source: str
    higher_is: str
    groups: tuple[str, ...]
    available: bool
    reason: str | None
    raw: Json = field(repr=False)

    def row(self) -> dict[str, Any]:
        """Its row in a table."""
        return {name: value for name, value in vars(self).items() if name != "raw"}


@dataclass(frozen=True)
class Methods:
    """What a server can estimate.

    Attributes:
        all: all methods that it knows.
        groups: the names of each group's methods.
        similarities: who can compare texts there.
        default_similarity: who does, unless a request says otherwise.
        raw: what the server has sent.
    """

    all: Results[Method]
    groups: Mapping[str, tuple[str, ...]]
    similarities: tuple[str, ...]
    default_similarity: str
    raw: Json = field(repr=False)

    @property
    def available(self) -> tuple[str, ...]:
        """Names of the methods that this server can do."""
        return tuple(method.name for method in self.all if method.available)

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each method.

        Raises:
            ImportError: pandas is not installed.
        """
        return self.all.to_pandas()


def uncertainty_of(found: Json) -> Uncertainty:
    """The answer of POST /v1/uncertainty."""
    samples, clusters = found.get("samples"), found.get("clusters")
    answer = found["answer"]
    return Uncertainty(
        model=found["model"],
        answer=Answer(answer["text"], answer.get("finish_reason"), answer["num_tokens"]),
        estimates={name: _estimate(one) for name, one in found["estimates"].items()},
        unavailable=found.get("unavailable") or {},
        similarity=found.get("similarity"),
        samples=None if samples is None else Results(map(_sample, samples)),
        clusters=None if clusters is None else tuple(clusters),
        usage=found["usage"],
        timings=found["timings"],
        raw=found,
    )


def methods_of(found: Json) -> Methods:
    """The answer of GET /v1/uncertainty/methods."""
    return Methods(
        all=Results(map(_method, found["data"])),
        groups={name: tuple(names) for name, names in found["groups"].items()},
        similarities=tuple(found["similarities"]),
        default_similarity=found["default_similarity"],
        raw=found,
    )


def _estimate(found: Json) -> Estimate:
    return Estimate(
        value=found["value"],
        exact=found["exact"],
        higher_is=found["higher_is"],
        details=found.get("details"),
        backend=found.get("backend", "engine"),
    )


def _sample(found: Json) -> Sample:
    return Sample(
        text=found["text"],
        finish_reason=found.get("finish_reason"),
        num_tokens=found["num_tokens"],
        logprob=found["logprob"],
        mean_logprob=found["mean_logprob"],
        cluster=found.get("cluster"),
    )


def _method(found: Json) -> Method:
    return Method(
        name=found["name"],
        description=found["description"],
        needs=tuple(found["needs"]),
        source=found["source"],
        higher_is=found["higher_is"],
        groups=tuple(found["groups"]),
        available=found["available"],
        reason=found.get("reason"),
        raw=found,
    )
