"""Learns from right and wrong answers what a hidden state says of the next one.

States are standardised before, and the fitted weights are those of states as they are.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.errors import FitError
from conf_server.fit.reservoir import SEED
from conf_server.uncertainty.fitted import LinearProbe, Perceptron

FOLDS: Final = 5
PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of regularization that a linear probe is tried with."""

LAYERS: Final = (256, 128, 64)
"""Units of SAPLMA's hidden layers (arXiv 2304.13734, section 4.1)."""

BATCH: Final = 32
FEWEST: Final = 2
"""Right answers, and wrong ones, that a probe wants."""

States = NDArray[np.float32]
Labels = NDArray[np.bool_]


def linear_probe(states: States, wrong: Labels) -> tuple[LinearProbe, dict[str, Any]]:
    """A logistic regression, with the penalty that cross-validation finds best by log loss.

    Args:
        states: (n, d).
        wrong: (n,).

    Returns:
        The probe, and plain facts of it; `auroc` is that of the folds that were left out.

    Raises:
        FitError: there are too few right or wrong answers.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    def model(penalty: float) -> Any:
        return LogisticRegression(C=penalty, max_iter=1000, random_state=SEED)

    exact = states.astype(np.float64)
    folds = _folds(wrong)
    found = {p: _left_out(model(p), exact, wrong, folds) for p in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: log_loss(wrong, found[penalty]))
    mean, scale, fitted = _fitted(model(best), exact, wrong)
    weight = fitted.coef_[0] / scale
    probe = LinearProbe(weight, float(fitted.intercept_[0] - mean @ weight))
    return probe, {"penalty": best, **_facts(wrong, found[best], folds)}


def saplma(states: States, wrong: Labels, epochs: int) -> tuple[Perceptron, dict[str, Any]]:
    """A perceptron of 256, 128 and 64 units, trained by Adam in batches of 32.

    Args, returns and raises as `linear_probe`.
    """
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        LAYERS, batch_size=min(BATCH, len(wrong)), max_iter=epochs, random_state=SEED
    )
    exact = states.astype(np.float64)
    folds = _folds(wrong)
    left_out = _left_out(model, exact, wrong, folds)
    mean, scale, fitted = _fitted(model, exact, wrong)
    first, *others = fitted.coefs_
    first = first / scale[:, None]
    biases = [fitted.intercepts_[0] - mean @ first, *fitted.intercepts_[1:]]
    learned = Perceptron((first, *others), tuple(biases))
    return learned, {"epochs": epochs, **_facts(wrong, left_out, folds)}


def _folds(wrong: Labels) -> int:
    fewest = int(min(wrong.sum(), (~wrong).sum()))
    if fewest < FEWEST:
        raise FitError(
            f"there are {int((~wrong).sum())} right and {int(wrong.sum())} wrong answers, and "
            f"{FEWEST} of each are wanted at least"
        )
    return min(FOLDS, fewest)


def _left_out(model: Any, states: NDArray[np.float64], wrong: Labels, folds: int) -> Any:
    """(n,) probabilities of being wrong, each by a model that has not learned from its fold."""
    from sklearn.base import clone
    from sklearn.model_selection import StratifiedKFold

    found = np.empty(len(wrong))
    parts = StratifiedKFold(folds, shuffle=True, random_state=SEED).split(states, wrong)
    for learned, left in parts:
        mean, scale, fitted = _fitted(clone(model), states[learned], wrong[learned])
        found[left] = fitted.predict_proba((states[left] - mean) / scale)[:, 1]
    return found


def _fitted(model: Any, states: NDArray[np.float64], wrong: Labels) -> tuple[Any, Any, Any]:
    """Mean and standard deviation of the states, and the model fitted on what they leave."""
    from sklearn.exceptions import ConvergenceWarning

    mean, scale = states.mean(axis=0), states.std(axis=0)
    scale[scale == 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is given
        return mean, scale, model.fit((states - mean) / scale, wrong)


def _facts(wrong: Labels, left_out: Any, folds: int) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    auroc = round(float(roc_auc_score(wrong, left_out)), 4)
    return {"wrong": int(wrong.sum()), "folds": folds, "auroc": auroc}
