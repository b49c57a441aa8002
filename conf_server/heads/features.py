"""What a trained head reads of each token: luh's feature extractors, from numbers of the engine.

Positions are counted from 0 over prompt and answer. With P tokens of the prompt and c of the
answer, the rows that count for the answer are those of the positions P-1 .. P+c-2: row i is what
the model has made of token i, from which it predicts token i+1. The answer's last token has no row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.heads.luh_config import Extractor, HeadError, whole_number
from conf_server.stats.forced import ForcedAttention, ForcedStates, WantedAttention, WantedStates

Floats = NDArray[np.float32]

_ALL: Final = "all"
_WHOLE: Final = 1e-3
"""How far from 1 rounding may leave the sum of a token's attention weights."""


class UnreadableError(ValueError):
    """Numbers of this text from which a feature cannot be made. The message says why."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of the served model.

    Attributes:
        num_layers: N, the number of decoder layers.
        num_heads: of queries, in a layer.
        hidden_size: numbers in one hidden state.
    """

    num_layers: int
    num_heads: int
    hidden_size: int


@dataclass(frozen=True)
class Reading:
    """What is known of n consecutive positions of a text.

    Attributes:
        num_context: P, the number of the prompt's tokens.
        first: the position of the first row: 0, or P-1 where the answer's rows are all.
        candidates: (c, k) log-probabilities in nats of the likeliest tokens at each of the
            answer's tokens, likeliest first.
        layers: which hidden states `states` has, in the numbering of `WantedStates`.
        attention_layers: whose weights it has.
        states: with one row a position; None where nothing reads the layers.
    """

    num_context: int
    first: int
    candidates: Floats
    layers: tuple[int, ...] = ()
    attention_layers: tuple[int, ...] = ()
    states: ForcedStates | None = None

    @property
    def num_rows(self) -> int:
        """n: the last row is the answer's last."""
        return self.num_context - 1 + len(self.candidates) - self.first

    @property
    def hidden(self) -> Floats:
        """(layers, n, hidden size)."""
        assert self.states is not None
        return self.states.states

    @property
    def attention(self) -> ForcedAttention:
        """The weights of all n rows."""
        assert self.states is not None
        assert self.states.attention is not None
        return self.states.attention


class Feature(ABC):
    """Numbers that a head reads of each position.

    Attributes:
        width: how many.
        states: hidden states that are read, in the numbering of `WantedStates`.
        attentive: decoder layers whose attention weights are read.
        history: of how many tokens each token's weights are read.
        top_n: how many of the likeliest tokens are read.
        reads_context: the prompt's rows are needed for the answer's.
    """

    width: int
    states: tuple[int, ...] = ()
    attentive: tuple[int, ...] = ()
    history: int = 0
    top_n: int = 0
    reads_context: bool = False

    @abstractmethod
    def __init__(self, options: Mapping[str, Any], shape: ModelShape, where: str) -> None:
        """
        Args:
            options: of the extractor, as they are written.
            where: the extractor's place in `config.yaml`, for error messages.

        Raises:
            HeadError: an option that cannot be meant, or a layer or head that the model lacks.
        """

    @abstractmethod
    def rows(self, reading: Reading) -> Floats:
        """(n, width) float32.

        Raises:
            UnreadableError: the reading is not what the feature is defined on.
        """


class NearAttention(Feature):
    """`basic_attention`: what each token pays to itself and to those before it.

    A row holds, for each distance from 0 on, for each head, the weight in each of the layers, or
    with `pool` the largest of them. Where the text has no such token the weight is 0.
    """

    def __init__(self, options: Mapping[str, Any], shape: ModelShape, where: str) -> None:
        self.attentive = _numbered(
            options["layer_nums"], shape.num_layers, shape.num_layers - 1, f"{where}.layer_nums"
        )
        self.history = whole_number(options["attn_history_sz"], f"{where}.attn_history_sz")
        self._pool = options["pool"]
        if not isinstance(self._pool, bool):
            raise HeadError(f"{where}.pool must be true or false, got {self._pool!r}")
        heads = options.get("head_nums", _ALL)
        if isinstance(heads, dict):
            # luh reads the keys of such a mapping as heads of every layer, which nobody can mean.
            raise HeadError(f"{where}.head_nums differs by layer, which luh itself does not load")
        self._heads = _numbered(heads, shape.num_heads, shape.num_heads - 1, f"{where}.head_nums")
        layers = 1 if self._pool else len(self.attentive)
        self.width = self.history * len(self._heads) * layers

    def rows(self, reading: Reading) -> Floats:
        places = [reading.attention_layers.index(layer) for layer in self.attentive]
        weights = reading.attention.weights[places][:, :, list(self._heads), : self.history]
        ordered = weights.transpose(1, 3, 2, 0)  # (n, history, heads, layers)
        if self._pool:
            ordered = ordered.max(axis=-1)
        return ordered.reshape(len(ordered), -1)


class StatesOfLayers(Feature):
    """`basic_hidden_states`: hidden states of the chosen layers side by side.

    luh numbers them as transformers does, 0 for the embeddings and N for the last layer's after
    the final norm. But it counts negative numbers from N, and not from the N+1 there are: its -1 is
    the input of the last layer, and its "all" leaves out the last layer's output.
    """

    def __init__(self, options: Mapping[str, Any], shape: ModelShape, where: str) -> None:
        self.states = _numbered(
            options.get("layer_nums", [-1]),
            shape.num_layers,
            shape.num_layers,
            f"{where}.layer_nums",
        )
        self.width = shape.hidden_size * len(self.states)

    def rows(self, reading: Reading) -> Floats:
        places = [reading.layers.index(layer) for layer in self.states]
        chosen = reading.hidden[places].transpose(1, 0, 2)  # (n, layers, hidden size)
        return chosen.reshape(len(chosen), -1)


class LookbackRatios(Feature):
    """`lookback_lens`: how much of a token's attention goes to new tokens rather than the prompt.

    With a the weights of a head at position i > P, it is new / (new + context), where context is
    the mean of a over the prompt's P tokens and new the sum of a over later ones divided by i - P,
    although there are i - P + 1 of them: luh's number (after arXiv 2407.07071). Up to position P it
    is 1.
    """

    reads_context = True

    def __init__(self, options: Mapping[str, Any], shape: ModelShape, where: str) -> None:
        self.attentive = tuple(range(shape.num_layers))
        self.width = shape.num_layers * shape.num_heads

    def rows(self, reading: Reading) -> Floats:
        places = [reading.attention_layers.index(layer) for layer in self.attentive]
        mass = reading.attention.context_mass
        assert mass is not None
        mass = mass[places]  # (layers, n, heads)
        # Of what the prompt's own tokens pay, all goes to the prompt. What does not went to a sink,
        # and then the rest of a later token's attention is not all on new tokens.
        if not np.allclose(mass[:, : reading.num_context - reading.first], 1, 0, _WHOLE):
            raise UnreadableError("the model's attention weights do not sum to 1, as it has sinks")
        position = reading.first + np.arange(mass.shape[1], dtype=np.float32)[:, None]
        later = np.maximum(position - reading.num_context, 1)
        new = np.maximum(1 - mass, 0) / later
        ratio = new / (new + mass / reading.num_context)
        ratio = np.where(position > reading.num_context, ratio, 1)
        return ratio.transpose(1, 0, 2).reshape(mass.shape[1], -1).astype(np.float32)


class LikeliestTokens(Feature):
    """`token_probabilities`: probabilities of the likeliest next tokens, likeliest first.

    They are 0 in the rows that predict the prompt's own tokens.
    """

    def __init__(self, options: Mapping[str, Any], shape: ModelShape, where: str) -> None:
        self.top_n = self.width = whole_number(options["top_n"], f"{where}.top_n")
        temperature = options.get("temperature", 1.0)
        if temperature != 1 or isinstance(temperature, bool):
            raise HeadError(
                f"{where}.temperature {temperature!r} needs the logits of the whole vocabulary, "
                "only 1.0 can be had"
            )

    def rows(self, reading: Reading) -> Floats:
        rows = np.zeros((reading.num_rows, self.top_n), np.float32)
        own = reading.candidates[:, : self.top_n]
        if own.shape[1] < self.top_n:
            raise UnreadableError(f"{own.shape[1]} candidates a token, the head reads {self.top_n}")
        rows[len(rows) - len(own) :] = np.exp(own)
        return rows


_FEATURES: Final[Mapping[str, type[Feature]]] = {
    "basic_attention": NearAttention,
    "basic_hidden_states": StatesOfLayers,
    "lookback_lens": LookbackRatios,
    "token_probabilities": LikeliestTokens,
}


class FeatureRow:
    """The features of a head side by side.

    Attributes:
        parts: by luh's names, in their order.
        width: of all together.
        top_n: how many of the likeliest tokens are read; 0 for none.
        reads_context: the prompt's rows are needed for the answer's.
    """

    def __init__(self, extractors: Sequence[Extractor], shape: ModelShape) -> None:
        """
        Raises:
            HeadError: an option that cannot be meant, or layers or heads that the model lacks.
        """
        self.parts: list[tuple[str, Feature]] = [
            (each.name, _FEATURES[each.name](each.options, shape, f"feature_extractor.{i}"))
            for i, each in enumerate(extractors)
        ]
        features = [feature for _, feature in self.parts]
        self.width = sum(feature.width for feature in features)
        self.top_n = max(feature.top_n for feature in features)
        self.reads_context = any(feature.reads_context for feature in features)
        self._layers = tuple(sorted({layer for each in features for layer in each.states}))
        self._attentive = tuple(sorted({layer for each in features for layer in each.attentive}))
        self._history = max(feature.history for feature in features)
        self._mass = any(isinstance(feature, LookbackRatios) for feature in features)

    @property
    def attentive(self) -> tuple[int, ...]:
        """Decoder layers whose attention weights are read."""
        return self._attentive

    @property
    def reads_layers(self) -> bool:
        """Whether there are features of hidden states or attention weights."""
        return bool(self._layers or self._attentive)

    def numbers_of(self, shape: ModelShape) -> int:
        """Numbers that the engine gives for one position."""
        weights = len(self._attentive) * shape.num_heads * (self._history + self._mass)
        return len(self._layers) * shape.hidden_size + weights

    def wanted(self, completion_only: bool) -> WantedStates:
        """What the engine is asked for."""
        attention = None
        if self._attentive:
            attention = WantedAttention(self._attentive, self._history, self._mass)
        return WantedStates(self._layers, "none", completion_only, attention)

    def rows(
        self, num_context: int, first: int, candidates: Floats, states: ForcedStates | None
    ) -> Floats:
        """(n, width) float32; the arguments are those of `Reading`.

        Raises:
            UnreadableError: a feature cannot be made of this text.
        """
        reading = Reading(num_context, first, candidates, self._layers, self._attentive, states)
        parts = [feature.rows(reading) for _, feature in self.parts]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def _numbered(given: Any, count: int, last: int, name: str) -> tuple[int, ...]:
    """Numbers from 0 to `last`, as luh reads them.

    Args:
        given: one of them, several, or "all" for 0 .. count-1. Negative ones count from `count`.

    Raises:
        HeadError: there is no such layer or head, or none at all.
    """
    if given == _ALL:
        return tuple(range(count))
    numbers = given if isinstance(given, list) else [given]
    if not numbers:
        raise HeadError(f"{name} is empty")
    found = []
    for number in numbers:
        whole_number(number, name, -count)
        if number > last:
            raise HeadError(f"{name} {number} is beyond the served model's, which end at {last}")
        found.append(number + count if number < 0 else number)
    return tuple(found)
