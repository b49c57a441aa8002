"""Do fitted methods know when the model is wrong? Cross-validated, on states that a fit has kept.

    conf-server fit answers.jsonl -o DIR --methods ... --keep-states
    python -m evaluation.fitted_methods DIR

Each of five parts of the answers is estimated by what was learned from the four others. All methods
that read the same kind of state have to read the same layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit import probes
from conf_server.fit.collected_file import CollectedFile
from conf_server.fit.density import kernel_density
from conf_server.fit.moments import Moments, gaussian
from conf_server.report.evaluation_metrics import Levels, auroc, bootstrap_intervals, prr
from conf_server.uncertainty.evidence import Evidence
from conf_server.uncertainty.fitted import FITTABLE, Fitted, FittedMethod, Learner, ModelIdentity
from conf_server.uncertainty.fitted_file import load_fitted
from conf_server.uncertainty.registry import METHODS

PARTS: Final = 5
SEED: Final = 20261126
COMPONENTS: Final = 100
EPOCHS: Final = 5


def learned(learner: Learner, states: NDArray[np.float32], wrong: NDArray[np.bool_]) -> Any:
    """What a method learns; None for those that need more than the states."""
    if learner is Learner.GAUSSIAN:
        return gaussian(Moments.of(lambda: [states]), "ledoit_wolf")[0]
    if learner is Learner.KERNEL:
        return kernel_density(states, COMPONENTS)
    if learner is Learner.LINEAR:
        return probes.linear_probe(states, wrong)[0]
    if learner is Learner.PERCEPTRON:
        return probes.saplma(states, wrong, EPOCHS)[0]
    return None


def estimates(
    name: str, states: NDArray[np.float32], wrong: NDArray[np.bool_], model: ModelIdentity
) -> NDArray[np.float64]:
    """(n,) uncertainty of each answer, by what was learned from the parts that it is not in."""
    part = np.random.default_rng(SEED).permutation(len(wrong)) % PARTS
    found = np.empty(len(wrong))
    pooled = FITTABLE[name].pooled
    for left in range(PARTS):
        others = part != left
        of = learned(FITTABLE[name].learner, states[others], wrong[others])
        layer = 0 if pooled.has_layer else None
        fitted = Fitted(model, {name: FittedMethod(layer, int(others.sum()), of)})
        for i in np.flatnonzero(~others):
            vector = states[i].astype(np.float64)
            if layer is None:
                evidence = Evidence(fitted=fitted, lookback_ratios=vector)
            else:
                evidence = Evidence(fitted=fitted, **{f"{pooled}_states": {layer: vector}})
            found[i] = METHODS[name].estimate(evidence).value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    fitted = load_fitted(folder)
    print("| method | layer | AUROC | PRR |\n|---|---:|---|---|")
    for name, method in fitted.methods.items():
        file = CollectedFile(folder / "states" / f"train.{FITTABLE[name].pooled}.jsonl")
        place = 0 if FITTABLE[name].pooled.has_layer else None
        states = np.stack(list(file.vectors(place)))
        wrong = ~np.array(list(file.labels()), bool)
        if learned(FITTABLE[name].learner, states, wrong) is None:
            continue
        values = estimates(name, states, wrong, fitted.model)
        intervals = bootstrap_intervals([auroc, prr], values, wrong)
        cells = [
            f"{metric(Levels.of(values, wrong)):.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
            for metric, interval in zip((auroc, prr), intervals, strict=True)
            if interval is not None
        ]
        layer = "all" if method.layer is None else method.layer
        print(f"| `{name}` | {layer} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
