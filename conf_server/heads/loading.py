"""Trained heads from their folders, checked against the model that is served."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from conf_server.heads.features import FeatureRow, Floats, ModelShape
from conf_server.heads.luh_config import CONFIG, HeadError, LuhConfig, read_config
from conf_server.heads.luh_modules import network
from conf_server.heads.uncertainty_head import UncertaintyHead

SAFETENSORS: Final = "weights.safetensors"
CHECKPOINT: Final = "weights.pth"
"""luh's own: a dictionary of tensors, as torch saves it. No other objects are read from it."""

_OF_TOKENS: Final = frozenset({"luh", "linear", "saplma"})
"""The kinds of heads that judge tokens; the others judge claims."""


def load_head(folder: Path, shape: ModelShape, max_values: int) -> UncertaintyHead:
    """The head in a folder that luh has written.

    Args:
        shape: of the model that is served.
        max_values: as for `UncertaintyHead`.

    Raises:
        HeadError: it is of another model, of a kind that is not known, or cannot be read.
    """
    config, features, empty, weights = _checked(folder, shape)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise HeadError(f"{name} holds numbers that are not finite")
    loaded = empty.to_empty(device="cpu")
    loaded.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    loaded.eval()

    @torch.inference_mode()
    def logits(rows: Floats, first: int) -> Floats:
        found: Floats = loaded(torch.from_numpy(rows), first).numpy()
        return found

    return UncertaintyHead(
        config.head_type,
        features,
        shape,
        logits,
        judges_tokens=config.head_type in _OF_TOKENS,
        reads_context=any(isinstance(part, nn.TransformerEncoder) for part in loaded.children()),
        max_values=max_values,
    )


def check_head(folder: Path, shape: ModelShape) -> FeatureRow:
    """Find out whether `load_head` can load a head, without working on its numbers.

    A process that has worked with torch's threads cannot be forked, as the engine's may be.

    Returns:
        What the head reads.

    Raises:
        HeadError: as `load_head`, but for weights that are not finite.
    """
    return _checked(folder, shape)[1]


def _checked(
    folder: Path, shape: ModelShape
) -> tuple[LuhConfig, FeatureRow, nn.Module, Mapping[str, Tensor]]:
    """Configuration, features, a network without weights, and weights that fit it."""
    config = read_config(folder)
    features = FeatureRow(config.extractors, shape)
    try:
        with torch.device("meta"):
            empty = network(config.head_type, config.options, features.width)
    except ValueError as error:
        raise HeadError(f"uncertainty_head: {error}") from error
    weights = _read_weights(folder)
    _check_weights(weights, empty.state_dict(), features)
    return config, features, empty, weights


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (SAFETENSORS, CHECKPOINT):
        path = folder / name
        if not path.is_file():
            continue
        try:
            if name == SAFETENSORS:
                found = load_file(path)
            else:
                found = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
            reason = str(error).partition("\n")[0]
            raise HeadError(f"{name} cannot be read: {reason}") from error
        if not isinstance(found, dict) or not all(
            isinstance(tensor, Tensor) for tensor in found.values()
        ):
            raise HeadError(f"{name} is no dictionary of tensors")
        return dict(found)
    raise HeadError(f"there is neither {SAFETENSORS} nor {CHECKPOINT} in the folder")


def _check_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], features: FeatureRow
) -> None:
    if missing := [name for name in wanted if name not in given]:
        raise HeadError(f"the weights lack {missing[0]}, which {CONFIG} wants")
    if unknown := [name for name in given if name not in wanted]:
        raise HeadError(f"the weights hold {unknown[0]}, of which {CONFIG} says nothing")
    for name, tensor in wanted.items():
        if given[name].shape == tensor.shape:
            continue
        message = f"{name} is of shape {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        if features.width in tensor.shape:
            parts = ", ".join(f"{part.width} of {called}" for called, part in features.parts)
            message += f": with this model its features are {features.width} numbers ({parts})"
        raise HeadError(message)
