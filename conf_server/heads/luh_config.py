"""What the `config.yaml` of a trained head says, in the format of the luh package.

luh is github.com/IINemo/llm-uncertainty-head ("A Head to Predict and a Head to Question", EMNLP
2025, main 1809). Its heads are saved as a folder: `config.yaml` names the kind of head, the
features that it reads and the sizes of its layers; the weights stand in a file beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CONFIG: Final = "config.yaml"

_MLP: Final = {"internal_dim1": 256, "internal_dim2": 128, "internal_dim3": 64}
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "luh": {
        "head_dim": 4096,
        "interim_dim": 0,
        "n_layers": 2,
        "n_heads": 32,
        "dropout": 0.1,
        "enable_feature_projection_layer": True,
        "use_transformer_encoder": True,
    },
    "claim": {
        "head_dim": 256,
        "n_layers": 2,
        "n_heads": 8,
        "dropout": 0.1,
        "mask_future_tokens": False,
    },
    "linear": {},
    "linear_claim": {},
    "mlp_claim": _MLP,
    "saplma": _MLP,
}
"""The kinds of heads that are known: for each the options of `uncertainty_head` and luh's defaults.

`dropout` is for training alone. `mask_future_tokens` hides what stands behind a claim, and behind
a claim that is the whole answer there is nothing.
"""
_DEFAULT_TYPE: Final = "luh"
_MAY_BE_ZERO: Final = "interim_dim"

_EXTRACTORS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "basic_attention": (
        frozenset({"layer_nums", "attn_history_sz", "pool"}),
        frozenset({"head_nums"}),
    ),
    "basic_hidden_states": (frozenset(), frozenset({"layer_nums"})),
    "lookback_lens": (frozenset(), frozenset()),
    "token_probabilities": (frozenset({"top_n"}), frozenset({"temperature"})),
}
"""The feature extractors that are known: what each has to be told, and what it may be told."""
_MODULES: Final = "luh.feature_extractors."


class HeadError(ValueError):
    """A trained head that cannot be used. The message says in one line what is wrong."""


@dataclass(frozen=True)
class Extractor:
    """One entry of `feature_extractor`.

    Attributes:
        name: without the package that it stands in.
        options: as they are written.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class LuhConfig:
    """What a `config.yaml` says.

    Attributes:
        head_type: luh's name of the kind of head.
        options: of `uncertainty_head`, with luh's defaults.
        extractors: in the order in which their features stand side by side.
    """

    head_type: str
    options: Mapping[str, Any]
    extractors: tuple[Extractor, ...]


def read_config(folder: Path) -> LuhConfig:
    """The configuration of the head in a folder.

    Raises:
        HeadError: there is none, or it names something that is not known here.
    """
    return read_config_file(folder / CONFIG)


def read_config_file(path: Path) -> LuhConfig:
    """A head's configuration, under whatever name.

    Raises:
        HeadError: as `read_config`.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise HeadError(f"{path.name} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise HeadError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise HeadError(f"{path.name} holds no settings")
    head_type = content.get("head_type", _DEFAULT_TYPE)
    if not isinstance(head_type, str) or head_type.lower() not in _OPTIONS:
        raise HeadError(f"head_type {head_type!r} is not known, only {', '.join(_OPTIONS)}")
    head_type = head_type.lower()
    return LuhConfig(
        head_type,
        _options(content.get("uncertainty_head") or {}, head_type),
        _extractors(content.get("feature_extractor")),
    )


def usual_config() -> LuhConfig:
    """What luh's authors have trained most: attention to the last three tokens, in all layers, and
    the four likeliest tokens, judged by a small encoder. Its sizes are luh's defaults.
    """
    features = (
        Extractor("basic_attention", {"layer_nums": "all", "attn_history_sz": 3, "pool": False}),
        Extractor("token_probabilities", {"top_n": 4}),
    )
    return LuhConfig("claim", dict(_OPTIONS["claim"]), features)


def as_yaml(config: LuhConfig) -> str:
    """The `config.yaml` that luh reads."""
    import yaml

    content = {
        "head_type": config.head_type,
        "feature_extractor": [
            {"name": f"{_MODULES}{each.name}", **each.options} for each in config.extractors
        ],
        "uncertainty_head": dict(config.options) or None,
    }
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text


def _options(given: Any, head_type: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise HeadError("uncertainty_head must be a mapping")
    known = _OPTIONS[head_type]
    if unknown := [str(name) for name in given if name not in known]:
        raise HeadError(f"uncertainty_head.{unknown[0]} is not known for head_type {head_type}")
    options = {**known, **given}
    for name, value in options.items():
        if isinstance(known[name], bool):
            if not isinstance(value, bool):
                raise HeadError(f"uncertainty_head.{name} must be true or false, got {value!r}")
        elif isinstance(known[name], int):
            whole_number(value, f"uncertainty_head.{name}", 0 if name == _MAY_BE_ZERO else 1)
    return options


def _extractors(given: Any) -> tuple[Extractor, ...]:
    if not isinstance(given, list) or not given:
        raise HeadError("feature_extractor must be a list of feature extractors")
    return tuple(_extractor(entry, index) for index, entry in enumerate(given))


def _extractor(entry: Any, index: int) -> Extractor:
    where = f"feature_extractor.{index}"
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise HeadError(f"{where}.name must say which feature extractor it is")
    options = {key: value for key, value in entry.items() if key != "name"}
    name = entry["name"].removeprefix(_MODULES)
    if name not in _EXTRACTORS:
        raise HeadError(
            f"{where}.name {entry['name']!r} is not known, only "
            f"{', '.join(_MODULES + known for known in _EXTRACTORS)}"
        )
    required, optional = _EXTRACTORS[name]
    if missing := sorted(required - options.keys()):
        raise HeadError(f"{where}.{missing[0]} is missing, {name} needs it")
    if unknown := [str(key) for key in options if key not in required | optional]:
        raise HeadError(f"{where}.{unknown[0]} is not known for {name}")
    return Extractor(name, options)


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """`value`, which has to be a whole number.

    Raises:
        HeadError: it is none, or below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise HeadError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value
