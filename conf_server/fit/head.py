"""Trains an uncertainty head in luh's format on answers that are known to be right or wrong."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.collected_file import CollectedFile
from conf_server.fit.errors import FitError
from conf_server.fit.probes import FEWEST
from conf_server.fit.reservoir import SEED, reservoir
from conf_server.heads.features import FeatureRow, Floats, UnreadableError
from conf_server.heads.luh_config import LuhConfig
from conf_server.stats.forced import ForcedAttention, ForcedStates

LEARNING_RATES: Final = {"luh": 1e-3, "claim": 1e-3}
"""Of encoders; the others, which are a few layers at most, learn with `LEARNING_RATE`."""
LEARNING_RATE: Final = 1e-2
WEIGHT_DECAY: Final = 0.1
ANSWERS_A_STEP: Final = 16
HELD_OUT: Final = 5
"""One part in so many is left out, to find out what the head is worth."""


@dataclass(frozen=True)
class Example:
    """One labelled answer.

    Attributes:
        features: (n, width), of all positions from the text's first on.
        first: the row with which the answer begins.
    """

    features: Floats
    first: int
    wrong: bool


class Examples:
    """The labelled answers of two passes, read when their turn comes: features are large."""

    def __init__(
        self, features: FeatureRow, states: CollectedFile | None, scores: CollectedFile, most: int
    ) -> None:
        """
        Args:
            states: what the layers make of prompt and answer; None if no feature reads that.
            scores: the likeliest candidates at each of the answer's tokens.
            most: labelled lines that are learned from.

        Raises:
            FitError: there are too few right or wrong answers.
        """
        self._features = features
        self._states = states
        self._scores = scores
        labels = dict(zip(scores.lines.tolist(), scores.labels(), strict=True))
        there = set(scores.lines.tolist()) & set((states or scores).lines.tolist())
        labelled = [line for line in labels if labels[line] is not None and line in there]
        self.lines = reservoir(labelled, most)
        self.wrong = np.array([not labels[line] for line in self.lines], bool)
        right = int((~self.wrong).sum())
        if min(right, len(self.lines) - right) < FEWEST:
            raise FitError(
                f"there are {right} right and {len(self.lines) - right} wrong answers, and "
                f"{FEWEST} of each are wanted at least"
            )

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        """
        Raises:
            FitError: the numbers of the line are none, or not what a feature is defined on.
        """
        line = self.lines[index]
        (score,) = self._scores.answer(line)["result"]["data"]
        candidates = _candidates(score, self._features.top_n)
        states, rows = None, 0
        if self._states is not None:
            (result,) = self._states.answer(line)["result"]["data"]
            states = _states(result)
            rows = int(result["num_tokens"])
        num_context = rows - len(candidates) + 1 if states is not None else 1
        try:
            features = self._features.rows(num_context, 0, candidates, states)
        except UnreadableError as error:
            raise FitError(f"line {line}: {error}") from error
        if not np.isfinite(features).all():
            raise FitError(f"line {line}: its features have numbers that are none")
        return Example(features, num_context - 1, bool(self.wrong[index]))


def trained(
    config: LuhConfig, examples: Examples, epochs: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a head on all answers.

    Returns:
        Its parameters, torch's tensors by name, and plain facts; `auroc` is that of one part in
        `HELD_OUT`, by a head that has learned from the others alone.

    Raises:
        FitError: as `Examples`, or the sizes of the network do not go together.
    """
    import torch

    held = np.random.default_rng(SEED).permutation(len(examples)) % HELD_OUT == 0
    facts: dict[str, Any] = {"texts": len(examples), "wrong": int(examples.wrong.sum())}
    facts["epochs"] = epochs
    if len({*examples.wrong[held].tolist()}) == 2 and len({*examples.wrong[~held].tolist()}) == 2:
        from sklearn.metrics import roc_auc_score

        network = learned(config, examples, np.flatnonzero(~held), epochs)
        with torch.inference_mode():
            found = [logit(network, examples[int(i)]).item() for i in np.flatnonzero(held)]
        facts["auroc"] = round(float(roc_auc_score(examples.wrong[held], found)), 4)
    network = learned(config, examples, np.arange(len(examples)), epochs)
    return dict(network.state_dict()), facts


def learned(config: LuhConfig, examples: Examples, chosen: NDArray[np.int64], epochs: int) -> Any:
    """A network, a torch module, that has learned from the chosen examples.

    Raises:
        FitError: as `Examples`, or the sizes of the network do not go together.
    """
    import torch

    from conf_server.heads.luh_modules import network

    torch.manual_seed(SEED)
    try:
        model = network(config.head_type, config.options, examples[0].features.shape[1])
    except ValueError as error:
        raise FitError(f"uncertainty_head: {error}") from error
    wrong = examples.wrong[chosen].sum()
    loss = torch.nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor((len(chosen) - wrong) / max(wrong, 1), dtype=torch.float32)
    )
    steps = math.ceil(len(chosen) / ANSWERS_A_STEP)
    rate = LEARNING_RATES.get(config.head_type, LEARNING_RATE)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, epochs * steps)
    model.train()
    for batch in _batches(chosen, epochs):
        for index in batch:
            example = examples[index]
            target = torch.tensor(float(example.wrong))
            (loss(logit(model, example), target) / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
    return model


def logit(model: Any, example: Example) -> Any:
    """A tensor of no dimension: the logit of the answer being wrong.

    Of a head that judges tokens it is the mean of theirs.
    """
    import torch

    return model(torch.from_numpy(example.features), example.first).mean()


def _batches(chosen: NDArray[np.int64], epochs: int) -> Iterator[Sequence[int]]:
    draw = np.random.default_rng(SEED)
    for _ in range(epochs):
        order = draw.permutation(chosen).tolist()
        for start in range(0, len(order), ANSWERS_A_STEP):
            yield order[start : start + ANSWERS_A_STEP]


def _candidates(score: dict[str, Any], top_n: int) -> Floats:
    """(c, top_n) log-probabilities of the likeliest tokens at each of the answer's."""
    tokens = score["tokens"]
    found = np.full((len(tokens), top_n), -np.inf, np.float32)
    for row, token in zip(found, tokens, strict=True):
        likeliest = [one["logprob"] for one in token["top_logprobs"][:top_n]]
        row[: len(likeliest)] = [-np.inf if one is None else one for one in likeliest]
    return found


def _states(result: dict[str, Any]) -> ForcedStates:
    """A result of /v1/hidden_states, as the features want it."""
    states = _array(result["states"], result["shape"])
    given = result.get("attention")
    if given is None:
        return ForcedStates(states, 0)
    parts = {name: _array(part["values"], part["shape"]) for name, part in given.items()}
    return ForcedStates(states, 0, ForcedAttention(parts["weights"], parts.get("context_mass")))


def _array(values: str, shape: Sequence[int]) -> Floats:
    return np.frombuffer(base64.b64decode(values), "<f4").reshape(shape)
