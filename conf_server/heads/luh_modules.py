"""The networks of luh's heads, as torch modules whose parameters bear the names of its files.

Each takes the features of n consecutive positions, (n, width) float32, and the number of the row
with which the answer begins, and returns logits: one for each of the answer's tokens, or one for
the whole answer, which is then a single claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

_DROPPED: Final = nn.Identity
"""Stands where luh has a dropout, which does nothing outside of training but is counted."""


def network(head_type: str, options: Mapping[str, Any], width: int) -> nn.Module:
    """The network of a head.

    Args:
        head_type, options: as in `LuhConfig`.
        width: of the features.

    Raises:
        ValueError: the sizes do not go together.
    """
    return _NETWORKS[head_type](options, width)


class TokenEncoder(nn.Module):
    """`luh`: features are projected, tokens attend to each other, and each gets a logit."""

    def __init__(self, options: Mapping[str, Any], width: int) -> None:
        super().__init__()
        size = options["head_dim"] if options["enable_feature_projection_layer"] else width
        if options["enable_feature_projection_layer"]:
            self.proj = _projection(width, size)
        if options["use_transformer_encoder"]:
            self.transformer_encoder = _encoder(options, size)
        interim = options["interim_dim"]
        self.classifier = _classifier(size, interim) if interim else nn.Linear(size, 1)

    def forward(self, features: Tensor, first: int) -> Tensor:
        """(tokens of the answer,)."""
        tokens = self.proj(features) if hasattr(self, "proj") else features
        if hasattr(self, "transformer_encoder"):
            tokens = self.transformer_encoder(tokens[None])[0]
        logits: Tensor = self.classifier(tokens[first:])
        return logits[:, 0]


class ClaimEncoder(nn.Module):
    """`claim`: as `TokenEncoder`, but tokens of the claim are marked, and their mean is judged."""

    def __init__(self, options: Mapping[str, Any], width: int) -> None:
        super().__init__()
        size = options["head_dim"]
        self.proj = _projection(width, size)
        self.entity_embedding = nn.Embedding(2, size)
        self.transformer_encoder = _encoder(options, size)
        self.classifier = _classifier(size, size)

    def forward(self, features: Tensor, first: int) -> Tensor:
        """(1,)."""
        tokens = self.proj(features)
        in_claim = torch.arange(len(tokens), device=tokens.device) >= first
        tokens = tokens + self.entity_embedding(in_claim.long())
        encoded = self.transformer_encoder(tokens[None])[0]
        logits: Tensor = self.classifier(encoded[first:].mean(dim=0))
        return logits


class TokenLayers(nn.Module):
    """`linear` and `saplma`: each of the answer's tokens is judged alone."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in layers.items():
            self.add_module(name, module)

    def forward(self, features: Tensor, first: int) -> Tensor:
        """(tokens of the answer,)."""
        tokens = features[first:]
        for module in _flat(self):
            tokens = module(tokens)
        return tokens[:, 0]


class ClaimLayers(TokenLayers):
    """`linear_claim` and `mlp_claim`: before the last layer the tokens' mean is taken."""

    def forward(self, features: Tensor, first: int) -> Tensor:
        """(1,)."""
        *before, last = _flat(self)
        tokens = features[first:]
        for module in before:
            tokens = module(tokens)
        logits: Tensor = last(tokens.mean(dim=0))
        return logits


def _flat(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if not list(part.children())]


def _projection(width: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(width, 2 * size), nn.LayerNorm(2 * size), nn.GELU(), _DROPPED()),
        *(nn.Linear(2 * size, size), nn.LayerNorm(size), nn.GELU()),
    )


def _classifier(size: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(size, inner), nn.LayerNorm(inner), nn.GELU(), _DROPPED()),
        nn.Linear(inner, 1),
    )


def _encoder(options: Mapping[str, Any], size: int) -> nn.TransformerEncoder:
    """Tokens attend to all others, those after them too: nothing tells their order."""
    heads = options["n_heads"]
    if size % heads:
        raise ValueError(f"{heads} attention heads do not go into a width of {size}")
    layer = nn.TransformerEncoderLayer(
        size, heads, dropout=0.0, activation="gelu", batch_first=True
    )
    return nn.TransformerEncoder(layer, options["n_layers"], enable_nested_tensor=False)


def _one_layer(_options: Mapping[str, Any], width: int) -> dict[str, nn.Module]:
    return {"classifier": nn.Linear(width, 1)}


def _four_layers(options: Mapping[str, Any], width: int) -> dict[str, nn.Module]:
    sizes = [width, *(options[f"internal_dim{number}"] for number in (1, 2, 3))]
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return {"layers": nn.ModuleList([*layers, nn.Linear(sizes[-1], 1)])}


_NETWORKS: Final[Mapping[str, Callable[[Mapping[str, Any], int], nn.Module]]] = {
    "luh": TokenEncoder,
    "claim": ClaimEncoder,
    "linear": lambda options, width: TokenLayers(_one_layer(options, width)),
    "saplma": lambda options, width: TokenLayers(_four_layers(options, width)),
    "linear_claim": lambda options, width: ClaimLayers(_one_layer(options, width)),
    "mlp_claim": lambda options, width: ClaimLayers(_four_layers(options, width)),
}
