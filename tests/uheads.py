"""Uncertainty heads in luh's format, for tests: nobody has trained them, their weights are made up.

They read the embedded model: 30 layers of 9 heads, hidden states of 576 numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RECORDED: Final[Path] = Path(__file__).parent / "e2e" / "recorded" / "uhead.json"

_ATTENTION = "luh.feature_extractors.basic_attention"
_STATES = "luh.feature_extractors.basic_hidden_states"
_LIKELIEST: Final = {"name": "luh.feature_extractors.token_probabilities", "top_n": 4}

CONFIGS: Final[Mapping[str, dict[str, Any]]] = {
    # The kind and the features of the heads that luh's authors have published.
    "claim": {
        "head_type": "claim",
        "feature_extractor": [
            {"name": _ATTENTION, "layer_nums": "all", "attn_history_sz": 3, "pool": False},
            _LIKELIEST,
        ],
        "uncertainty_head": {"head_dim": 16, "n_layers": 2, "n_heads": 2, "dropout": 0.1},
    },
    "luh": {
        "head_type": "luh",
        "feature_extractor": [
            _LIKELIEST,
            {
                **{"name": _ATTENTION, "layer_nums": [-1, 3], "attn_history_sz": 2},
                **{"pool": True, "head_nums": [8, 0, 4]},
            },
        ],
        "uncertainty_head": {"head_dim": 8, "interim_dim": 6, "n_layers": 1, "n_heads": 4},
    },
    "luh without an encoder": {
        "head_type": "luh",
        "feature_extractor": [
            {"name": _ATTENTION, "layer_nums": 7, "attn_history_sz": 4, "pool": False},
        ],
        "uncertainty_head": {"head_dim": 8, "use_transformer_encoder": False},
    },
    "luh without a projection": {
        "head_type": "luh",
        "feature_extractor": [{"name": "luh.feature_extractors.lookback_lens"}],
        "uncertainty_head": {
            **{"enable_feature_projection_layer": False, "use_transformer_encoder": False},
        },
    },
    "linear": {
        "head_type": "linear",
        "feature_extractor": [{"name": _STATES}],
        "uncertainty_head": None,
    },
    "linear_claim": {
        "head_type": "linear_claim",
        "feature_extractor": [{"name": _STATES, "layer_nums": [30, -1, 15]}, _LIKELIEST],
        "uncertainty_head": None,
    },
    "mlp_claim": {
        "head_type": "mlp_claim",
        "feature_extractor": [{"name": "luh.feature_extractors.lookback_lens"}, _LIKELIEST],
        "uncertainty_head": {"internal_dim1": 12, "internal_dim2": 8, "internal_dim3": 4},
    },
    "saplma": {
        "head_type": "saplma",
        "feature_extractor": [{"name": _STATES, "layer_nums": [0, 12]}],
        "uncertainty_head": {"internal_dim1": 12, "internal_dim2": 8, "internal_dim3": 4},
    },
}
"""What `config.yaml` says of each head that luh's numbers were recorded of."""


def made_up(shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """Weights of these shapes, the same each time: numpy keeps the stream of `RandomState`.

    Biases are small, so that features of any size tell answers apart.
    """
    random = np.random.RandomState(7)
    weights = {}
    for name, shape in sorted(shapes.items()):
        scale = 2 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.01
        centre = 1 if len(shape) == 1 and name.endswith("weight") else 0  # of a normalisation
        weights[name] = (centre + scale * random.standard_normal(shape)).astype(np.float32)
    return weights


def write_head(folder: Path, name: str, *, as_checkpoint: bool = False) -> Path:
    """A head of `CONFIGS` as luh saves it, or with its weights in safetensors."""
    import torch
    import yaml
    from safetensors.numpy import save_file

    weights = made_up(json.loads(RECORDED.read_text())["heads"][name]["shapes"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    if as_checkpoint:
        tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
        torch.save(tensors, folder / "weights.pth")
    else:
        save_file(weights, folder / "weights.safetensors")
    return folder
