"""What `conf-server fit` has learned of a model's hidden states, as plain arrays.

`fitted_file` writes and reads it. What estimators make of it stands in `methods.density` and
`methods.probes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Pooled(StrEnum):
    """How what the layers make of a prompt and its answer becomes one vector.

    With P tokens of the prompt and c of the answer, its end token included, the end token is
    never read: P + c - 2 is the last position that counts.
    """

    TEXT = "text"
    """The mean over positions 0 to P + c - 2."""
    ANSWER = "answer"
    """The mean over positions P to P + c - 2."""
    LAST = "last"
    """Position P + c - 2 alone."""
    LOOKBACK = "lookback"
    """No hidden states: the lookback ratios of all heads of all layers, the mean over positions P
    to P + c - 2."""

    @property
    def is_mean(self) -> bool:
        """Whether several positions count, of which it is the mean."""
        return self is not Pooled.LAST

    @property
    def has_layer(self) -> bool:
        """Whether it is of one layer, and not of all."""
        return self is not Pooled.LOOKBACK

    @property
    def is_of_answer(self) -> bool:
        """Whether the positions of the prompt do not count."""
        return self in (Pooled.ANSWER, Pooled.LOOKBACK)


class Learner(StrEnum):
    """What is learned of the vectors."""

    GAUSSIAN = "gaussian"
    RELATIVE = "relative"
    RANKED = "ranked"
    KERNEL = "kernel"
    LINEAR = "linear"
    PERCEPTRON = "perceptron"

    @property
    def is_probe(self) -> bool:
        """Whether it learns from answers that are known to be right or wrong."""
        return self in (Learner.LINEAR, Learner.PERCEPTRON)


class Fittable(NamedTuple):
    """What a method is fitted on, and what is learned."""

    pooled: Pooled
    learner: Learner


FITTABLE: Final[Mapping[str, Fittable]] = {
    "mahalanobis_distance": Fittable(Pooled.TEXT, Learner.GAUSSIAN),
    "relative_mahalanobis_distance": Fittable(Pooled.TEXT, Learner.RELATIVE),
    "rde": Fittable(Pooled.TEXT, Learner.KERNEL),
    "ppl_md": Fittable(Pooled.TEXT, Learner.RANKED),
    "mahalanobis_distance_answer": Fittable(Pooled.ANSWER, Learner.GAUSSIAN),
    "relative_mahalanobis_distance_answer": Fittable(Pooled.ANSWER, Learner.RELATIVE),
    "rde_answer": Fittable(Pooled.ANSWER, Learner.KERNEL),
    "ppl_md_answer": Fittable(Pooled.ANSWER, Learner.RANKED),
    "linear_probe": Fittable(Pooled.LAST, Learner.LINEAR),
    "saplma": Fittable(Pooled.LAST, Learner.PERCEPTRON),
    "lookback_lens": Fittable(Pooled.LOOKBACK, Learner.LINEAR),
}
"""Every method that has to be fitted, by name."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution of vectors.

    Attributes:
        mean: (d,).
        factor: (d, d) lower triangular, the Cholesky factor of the covariance.

    Raises:
        ValueError: the shapes do not fit, or the factor is none.
    """

    mean: Floats
    factor: Floats

    def __post_init__(self) -> None:
        d = len(self.mean)
        if self.mean.ndim != 1 or self.factor.shape != (d, d):
            raise ValueError(f"a factor of shape {self.factor.shape} for {d} numbers")
        if np.any(np.diagonal(self.factor) <= 0):
            raise ValueError("the factor of a covariance has a diagonal above 0")

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return len(self.mean)


@dataclass(frozen=True, eq=False)
class RelativeGaussian:
    """A distribution of vectors, and that of a background of texts of all kinds."""

    own: Gaussian
    background: Gaussian

    def __post_init__(self) -> None:
        if self.own.width != self.background.width:
            raise ValueError("texts and background have vectors of different widths")

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.own.width


@dataclass(frozen=True, eq=False)
class RankedGaussian:
    """A distribution of vectors, with what a new answer's numbers are ranked among.

    Attributes:
        negative_mean_logprobs: (n,) nats, of the answers that were fitted on.
        distances: (m,) of answers that were held out, from a distribution of the others.

    Raises:
        ValueError: one of the two is empty.
    """

    own: Gaussian
    negative_mean_logprobs: Floats
    distances: Floats

    def __post_init__(self) -> None:
        if not self.negative_mean_logprobs.size or not self.distances.size:
            raise ValueError("there is nothing to rank among")

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.own.width


@dataclass(frozen=True, eq=False)
class KernelDensity:
    """A kernel PCA (radial basis functions), and the distribution of what it makes of vectors.

    With k_i = exp(-gamma |x - support_i|^2), centred by `row_means` and `mean`, a vector becomes
    k @ projection.

    Attributes:
        support: (n, d) vectors that were fitted on.
        row_means: (n,) of their kernel matrix.
        projection: (n, r) eigenvectors, each divided by the root of its eigenvalue.
        robust: of r numbers: location and scatter of the minimum covariance determinant.

    Raises:
        ValueError: the shapes do not fit.
    """

    support: NDArray[np.float32]
    gamma: float
    row_means: Floats
    mean: float
    projection: Floats
    robust: Gaussian

    def __post_init__(self) -> None:
        n, r = len(self.support), self.robust.width
        if self.row_means.shape != (n,) or self.projection.shape != (n, r):
            raise ValueError(
                f"row means of shape {self.row_means.shape} and a projection of shape "
                f"{self.projection.shape} for {n} vectors and {r} components"
            )

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.support.shape[1])


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The logit of being wrong is x @ weight + bias.

    Attributes:
        weight: (d,).
    """

    weight: Floats
    bias: float

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return len(self.weight)


@dataclass(frozen=True, eq=False)
class Perceptron:
    """Layers of rectified linear units; the last one's single number is the logit of being wrong.

    Attributes:
        weights: (inputs, outputs) each.
        biases: (outputs,) each.

    Raises:
        ValueError: a layer does not fit the one before, or the last has several numbers.
    """

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def __post_init__(self) -> None:
        outputs = [weight.shape[1] for weight in self.weights]
        inputs = [weight.shape[0] for weight in self.weights]
        if not outputs or outputs[-1] != 1 or outputs[:-1] != inputs[1:]:
            raise ValueError(f"layers from {inputs} to {outputs} numbers")
        if [bias.shape for bias in self.biases] != [(n,) for n in outputs]:
            raise ValueError("biases that do not fit their layers")

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.weights[0].shape[0])


Learned = Gaussian | RelativeGaussian | RankedGaussian | KernelDensity | LinearProbe | Perceptron
LEARNED: Final[Mapping[Learner, type[Any]]] = {
    Learner.GAUSSIAN: Gaussian,
    Learner.RELATIVE: RelativeGaussian,
    Learner.RANKED: RankedGaussian,
    Learner.KERNEL: KernelDensity,
    Learner.LINEAR: LinearProbe,
    Learner.PERCEPTRON: Perceptron,
}
"""What each learner leaves behind."""


@dataclass(frozen=True)
class FittedMethod:
    """One method's part of a fit.

    Attributes:
        layer: whose states it reads, in the numbering of `WantedStates`; None for attention.
        num_texts: that it has learned from.
        learned: an instance of its learner's class in `LEARNED`.
        facts: what else is worth knowing of the fit, plain JSON.
    """

    layer: int | None
    num_texts: int
    learned: Learned
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, int | None]:
        """What is shown beside an estimate."""
        return {"layer": self.layer, "texts": self.num_texts}


@dataclass(frozen=True)
class ModelIdentity:
    """What tells one model's hidden states from another's.

    Attributes:
        root: folder or name that the weights come from.
        weights: a fingerprint of them; None where it is not known.
        chat_template: a hash of the template that chats are rendered with; None without one.
    """

    root: str
    num_layers: int
    hidden_size: int
    weights: str | None
    chat_template: str | None

    def difference(self, served: ModelIdentity) -> str | None:
        """Why a fit on this model says nothing of the served one; None where it does."""
        if self.hidden_size != served.hidden_size:
            what = f"hidden states of {self.hidden_size} numbers, those of {served.root} have"
            return f"it was fitted on {self.root} with {what} {served.hidden_size}"
        if self.num_layers != served.num_layers:
            what = f"{self.num_layers} layers, {served.root} has {served.num_layers}"
            return f"it was fitted on {self.root} with {what}"
        if self.weights != served.weights or (self.weights is None and self.root != served.root):
            return f"it was fitted on the weights of {self.root}, not on those of {served.root}"
        if self.chat_template != served.chat_template:
            return f"it was fitted with another chat template than that of {served.root}"
        return None


@dataclass(frozen=True)
class Fitted:
    """All that one fit has learned.

    Attributes:
        methods: by name, each of them in `FITTABLE`.
    """

    model: ModelIdentity
    methods: Mapping[str, FittedMethod]

    def layers(self, names: frozenset[str], pooled: Pooled) -> tuple[int, ...]:
        """The layers whose states of one kind these methods read, each once, in order."""
        return tuple(
            sorted(
                {
                    method.layer
                    for name, method in self.methods.items()
                    if name in names
                    and FITTABLE[name].pooled is pooled
                    and method.layer is not None
                }
            )
        )
