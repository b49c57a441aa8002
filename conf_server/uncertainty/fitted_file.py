"""The folder of a fit: `fitted.safetensors` holds the arrays, `fitted.json` says what they are.

Both are plain data: no code runs when they are read. `fitted.json` is written last, and names the
SHA-256 of the other, so that a fit that was interrupted is never taken for a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, get_type_hints

import numpy as np
from numpy.typing import NDArray

from conf_server.uncertainty.fitted import (
    FITTABLE,
    LEARNED,
    Fitted,
    FittedMethod,
    ModelIdentity,
)

FACTS: Final = "fitted.json"
ARRAYS: Final = "fitted.safetensors"
FORMAT: Final = 1
"""Of the folder; another number is refused."""

Array = NDArray[Any]


class FittedError(ValueError):
    """A folder that cannot be used. The message says which file and why."""


def write_fitted(folder: Path, fitted: Fitted, facts: Mapping[str, Any]) -> None:
    """Write a fit into a folder, in place of one that is there.

    Arrays that several methods have in common are written once.

    Args:
        facts: what else `fitted.json` is to say, plain JSON.

    Raises:
        OSError: nothing can be written there.
    """
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    names: dict[int, str] = {}
    flat = {name: _flat(method.learned) for name, method in fitted.methods.items()}
    methods = {}
    for name, method in fitted.methods.items():
        used = {}
        for path, array in flat[name].items():
            tensor = names.setdefault(id(array), f"{name}.{path}")
            tensors[tensor] = np.asarray(array, order="C")
            used[path] = tensor
        about = {"layer": method.layer, "pooling": FITTABLE[name].pooled.value}
        methods[name] = {**about, "texts": method.num_texts, **method.facts, "arrays": used}
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    whole = {
        "format": FORMAT,
        "model": asdict(fitted.model),
        "methods": methods,
        **facts,
        "arrays_sha256": digest,
    }
    (folder / FACTS).unlink(missing_ok=True)
    _replace(folder / ARRAYS, content)
    _replace(folder / FACTS, json.dumps(whole, indent=2).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    os.replace(draft, path)


def load_fitted(folder: Path) -> Fitted:
    """Read a fit and check it.

    Raises:
        FittedError: there is none, or one of its files is damaged or of another version.
    """
    facts = _read_facts(folder / FACTS)
    tensors = _read_arrays(folder / ARRAYS, facts.get("arrays_sha256"))
    try:
        model = ModelIdentity(**facts["model"])
        methods = {
            name: _method(name, entry, tensors, model) for name, entry in facts["methods"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise FittedError(f"{folder / FACTS}: {reason}") from error
    return Fitted(model, methods)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except OSError as error:
        raise FittedError(f"{path}: {error.strerror}; `conf-server fit` writes it") from error
    except ValueError as error:
        raise FittedError(f"{path}: not JSON: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise FittedError(f"{path}: format {found!r}, this conf-server reads format {FORMAT}")
    return facts


def _read_arrays(path: Path, digest: object) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise FittedError(f"{path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise FittedError(f"{path}: it is not the file that {FACTS} was written for")
    try:
        return load(content)
    except SafetensorError as error:
        raise FittedError(f"{path}: {error}") from error


def _method(
    name: str, entry: Mapping[str, Any], tensors: Mapping[str, Array], model: ModelIdentity
) -> FittedMethod:
    if name not in FITTABLE:
        raise ValueError(f"this conf-server knows no method {name!r} that has to be fitted")
    if entry["pooling"] != FITTABLE[name].pooled:
        raise ValueError(f"{name}: fitted on {entry['pooling']!r}, not {FITTABLE[name].pooled!r}")
    layer, texts = entry["layer"], entry["texts"]
    if not FITTABLE[name].pooled.has_layer:
        if layer is not None:
            raise ValueError(f"{name}: it reads all layers, not layer {layer!r}")
    elif type(layer) is not int or not 0 <= layer <= model.num_layers:
        raise ValueError(f"{name}: {layer!r} is no layer of a model with {model.num_layers}")
    if type(texts) is not int or texts < 1:
        raise ValueError(f"{name}: {texts!r} is no number of texts")
    arrays = {path: tensors[tensor] for path, tensor in entry["arrays"].items()}
    for path, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{name}: {path} has numbers that are none")
    learned = _built(LEARNED[FITTABLE[name].learner], arrays)
    if layer is None:
        if learned.width % model.num_layers:
            raise ValueError(
                f"{name}: fitted on {learned.width} numbers, which are no heads of "
                f"{model.num_layers} layers"
            )
    elif learned.width != model.hidden_size:
        raise ValueError(
            f"{name}: fitted on {learned.width} numbers, the model has {model.hidden_size}"
        )
    known = {"layer", "pooling", "texts", "arrays"}
    facts = {key: value for key, value in entry.items() if key not in known}
    return FittedMethod(layer, texts, learned, facts)


def _flat(learned: Any, prefix: str = "") -> dict[str, Array]:
    """The arrays of a dataclass and of those in it, by path; a number is an array of no axes."""
    found: dict[str, Array] = {}
    for field in fields(learned):
        value, path = getattr(learned, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            found |= _flat(value, f"{path}.")
        elif isinstance(value, tuple):
            found |= {f"{path}.{i}": array for i, array in enumerate(value)}
        else:
            found[path] = value if isinstance(value, np.ndarray) else np.array(value, np.float64)
    return found


def _built(kind: type[Any], arrays: Mapping[str, Array], prefix: str = "") -> Any:
    """The inverse of `_flat`."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        hint, path = hints[field.name], f"{prefix}{field.name}"
        if is_dataclass(hint):
            values[field.name] = _built(hint, arrays, f"{path}.")  # type: ignore[arg-type]
        elif hint is float:
            values[field.name] = float(arrays[path])
        elif getattr(hint, "__origin__", None) is tuple:
            count = sum(name.startswith(f"{path}.") for name in arrays)
            values[field.name] = tuple(arrays[f"{path}.{i}"] for i in range(count))
        else:
            values[field.name] = arrays[path]
    return kind(**values)
