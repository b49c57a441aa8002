"""Does the density of hidden states tell code from prose? Layer by layer, on a server that runs.

python -m evaluation.out_of_distribution --url http://localhost:8000

The prose is that of `prose`, the code that of Python's standard library. The server has to be
started with --enable-hidden-states.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.fit.density import kernel_density
from conf_server.fit.moments import Moments, gaussian
from conf_server.report.evaluation_metrics import Levels, auroc
from conf_server.uncertainty.methods.density import components, distances
from evaluation.prose import MOST_CHARACTERS, SEED, TEST, prose

CODE_LINES: Final = 8
BATCH: Final = 32
COMPONENTS: Final = 100

States = NDArray[np.float32]


def code() -> list[str]:
    """Runs of lines of the standard library."""
    chunks = []
    for path in sorted(Path(json.__file__).parents[1].glob("*.py")):
        lines = path.read_text(errors="replace").splitlines()
        for start in range(60, len(lines) - CODE_LINES, 40):
            chunk = "\n".join(lines[start : start + CODE_LINES]).strip("\n")
            if '"""' not in chunk and "#" not in chunk and chunk.count("\n") >= CODE_LINES - 3:
                chunks.append(chunk[:MOST_CHARACTERS])
    return random.Random(SEED).sample(chunks, TEST)


def read(url: str, texts: Sequence[str], layers: Sequence[int]) -> States:
    """(texts, layers, d): the mean state of each text."""
    return np.stack([state for batch in _batches(texts) for state in _states(url, batch, layers)])


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]


def _states(url: str, texts: Sequence[str], layers: Sequence[int]) -> Iterator[States]:
    body = {"items": [{"prompt": text} for text in texts], "layers": list(layers)}
    for result in _json(f"{url}/v1/hidden_states", body)["data"]:
        numbers = np.frombuffer(base64.b64decode(result["states"]), "<f4")
        yield numbers.reshape(result["shape"])[:, 0]


def _json(url: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def told_apart(train: States, inside: States, outside: States) -> dict[str, float]:
    """AUROC of telling `outside` by its distance, by method; all are (n, d)."""
    states = np.concatenate((inside, outside)).astype(np.float64)
    is_outside = np.arange(len(states)) >= len(inside)
    normal, _ = gaussian(Moments.of(lambda: [train]), "ledoit_wolf")
    kernel = kernel_density(train, COMPONENTS)
    values = {
        "mahalanobis_distance": distances(normal, states),
        "rde": distances(kernel.robust, components(kernel, states)) ** 2,
    }
    return {name: auroc(Levels.of(found, is_outside)) for name, found in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    url = parser.parse_args().url
    num_layers = _json(f"{url}/v1/hidden_states")["num_layers"]
    layers = sorted({round(num_layers * share / 6) for share in range(7)})
    train, inside = prose()
    outside = code()
    print(f"{len(train)} paragraphs to fit on, {len(inside)} others and {len(outside)} of code")
    read_texts = [read(url, texts, layers) for texts in (train, inside, outside)]
    print("| layer | `mahalanobis_distance` | `rde` |\n|---:|---:|---:|")
    for place, layer in enumerate(layers):
        found = told_apart(*(states[:, place] for states in read_texts))
        print(f"| {layer} | {found['mahalanobis_distance']:.3f} | {found['rde']:.3f} |")


if __name__ == "__main__":
    main()
