"""`conf-server.yaml`: a whole set-up in one file, as the words of a command line.

    generator: {type: vllm, model: /models/smol, gpu_memory_utilization: 0.9}
    scorer: {type: [entropy, mahalanobis_distance], quantization: int8}
    confidence: {mode: stats, top_k: 20}
    fitted: ./fitted

`generator` holds flags of the server that its `type` names. A flag on the command line wins over
the file, because it stands behind the file's words.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from conf_server.flags import load_methods
from conf_server.nearest import did_you_mean
from conf_server.settings import SettingsError
from conf_server.uncertainty.needs import READING
from conf_server.uncertainty.registry import METHODS

GENERATORS: Final = ("vllm", "transformers", "hybrid")
"""Who generates. With hybrid it is vLLM, and transformers scores beside it."""

METHOD_NAMES: Final[Mapping[str, str]] = {
    "entropy": "mean_token_entropy",
    "maxprob": "maximum_sequence_probability",
    "mahalanobis": "mahalanobis_distance",
}
"""Short names of methods in `scorer.type`; all others are those of /v1/uncertainty."""

_STATES: Final = "--enable-hidden-states"
_CONFIDENCE: Final = ("mode", "top_k", "window")
_SCORER: Final = ("model", "device", "dtype", "quantization", "mode", "max_queue")
_SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "generator": (),  # any flag, see `words`
    "scorer": ("type", *_SCORER),
    "confidence": _CONFIDENCE,
    "fitted": (),
}
_IDLE: Final[Mapping[str, str]] = {
    "sequential_generation": "all answers to a prompt share its prefix cache, and come at once",
    "empty_cache_after_step": "memory is given back when it has run out, and not before",
}
"""Keys that old files have and that do nothing any more, and why."""


@dataclass(frozen=True)
class Entry:
    """A key of the file that is a flag.

    Attributes:
        path: of the key, `generator.dtype`.
        line: of the file, from 1.
        flag: with its dashes.
    """

    path: str
    line: int
    flag: str
    value: Any


@dataclass(frozen=True)
class ServerFile:
    """What a file says.

    Attributes:
        backend: what runs the model: vllm or transformers.
        notes: what of the file does nothing, and why.
    """

    path: Path
    backend: str
    notes: tuple[str, ...]
    entries: tuple[Entry, ...]

    def words(self, known: Collection[str]) -> list[str]:
        """The file as words of a command line.

        Args:
            known: all flags of the server that the file starts.

        Raises:
            SettingsError: the server has no such flag. File, line and key are named.
        """
        found: list[str] = []
        for entry in self.entries:
            if entry.flag not in known:
                keys = {flag.removeprefix("--").replace("-", "_") for flag in known}
                raise _wrong(self.path, entry.line, entry.path, "no such key", keys)
            found += _flag_words(entry, known)
        return found


def is_server_file(path: Path) -> bool:
    """Whether a YAML file is one of ours, and not a list of vLLM's flags.

    Raises:
        SettingsError: it cannot be read.
    """
    data, _ = _parsed(path)
    return any(isinstance(data.get(name), dict) for name in ("generator", "scorer", "confidence"))


def read_server_file(path: Path) -> ServerFile:
    """Read and check a file.

    Raises:
        SettingsError: file, line and key of the first mistake, with the nearest right key.
    """
    data, lines = _parsed(path)
    notes = []
    for name, section in data.items():
        if name not in _SECTIONS:
            raise _wrong(path, lines.get(str(name), 1), str(name), "no such key", _SECTIONS)
        if name == "fitted":
            if not isinstance(section, str):
                raise _wrong(path, lines[name], name, "must be the name of a folder")
            continue
        if not isinstance(section, dict):
            raise _wrong(path, lines[name], name, "must hold keys of its own")
        for key in list(section):
            if key in _IDLE:
                where = f"{path}, line {lines[f'{name}.{key}']}: {name}.{key}"
                notes.append(f"{where} does nothing: {_IDLE[key]}")
                del section[key]
            elif _SECTIONS[name] and key not in _SECTIONS[name]:
                place = f"{name}.{key}"
                raise _wrong(path, lines.get(place, 1), place, "no such key", _SECTIONS[name])
    return _checked(path, data, lines, notes)


def _checked(
    path: Path, data: dict[str, Any], lines: dict[str, int], notes: list[str]
) -> ServerFile:
    generator, scorer = dict(data.get("generator", {})), dict(data.get("scorer", {}))
    kind = generator.pop("type", GENERATORS[0])
    if kind not in GENERATORS:
        choices = f"must be one of {', '.join(GENERATORS)}, got {kind!r}"
        raise _wrong(path, lines["generator.type"], "generator.type", choices)
    if not generator.get("model"):
        raise _wrong(path, lines.get("generator", 1), "generator.model", "must be given")
    methods = scorer.pop("type", [])
    methods = [methods] if isinstance(methods, str) else methods
    if not isinstance(methods, list) or not all(isinstance(name, str) for name in methods):
        raise _wrong(path, lines["scorer.type"], "scorer.type", "must be a list of methods")
    if scorer and kind == "vllm":
        place = f"scorer.{next(iter(scorer))}"
        what = "it is of the scorer, which there is with `generator.type: hybrid`"
        raise _wrong(path, lines[place], place, what)
    entries = [_entry(lines, "generator", key, f"--{key}", generator[key]) for key in generator]
    prefix = "--" if kind == "transformers" else "--scorer-"
    entries += [_entry(lines, "scorer", key, f"{prefix}{key}", scorer[key]) for key in scorer]
    if kind == "hybrid":
        entries.append(Entry("generator.type", lines["generator.type"], "--scorer", "transformers"))
    options = data.get("confidence", {})
    entries += [
        _entry(lines, "confidence", key, f"--confidence-{key}", options[key]) for key in options
    ]
    if methods:
        entries += _method_entries(path, lines["scorer.type"], methods)
    if "fitted" in data:
        entries.append(Entry("fitted", lines["fitted"], "--fitted", data["fitted"]))
        if all(entry.flag != _STATES for entry in entries):
            entries.append(Entry("fitted", lines["fitted"], _STATES, True))
    backend = "transformers" if kind == "transformers" else "vllm"
    return ServerFile(path, backend, tuple(notes), tuple(entries))


def _method_entries(path: Path, line: int, methods: list[str]) -> list[Entry]:
    """What makes the server compute methods by default: also what they read has to be enabled."""
    load_methods()
    key, names = "scorer.type", list(dict.fromkeys(METHOD_NAMES.get(m, m) for m in methods))
    for name in names:
        if name not in METHODS:
            raise _wrong(path, line, f"{key}.{name}", "no such method", {*METHODS, *METHOD_NAMES})
    entries = [Entry(key, line, "--default-methods", ",".join(names))]
    if any(need.asks & READING for name in names for need in METHODS[name].needs):
        entries.append(Entry(key, line, _STATES, True))
    return entries


def _entry(lines: Mapping[str, int], section: str, key: str, flag: str, value: Any) -> Entry:
    path = f"{section}.{key}"
    return Entry(path, lines.get(path, 1), flag.replace("_", "-"), value)


def _flag_words(entry: Entry, known: Collection[str]) -> list[str]:
    """A flag and its value. A switch that is off is written only where there is a word for it."""
    value = entry.value
    if value is True or value is None:
        return [entry.flag] if value else []
    if value is False:
        off = f"--no-{entry.flag.removeprefix('--')}"
        return [off] if off in known else []
    if isinstance(value, list):
        return [entry.flag, *map(str, value)]
    # With a sign of equality, so that a value may begin with a dash.
    return [f"{entry.flag}={json.dumps(value) if isinstance(value, dict) else value}"]


def _parsed(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """What the file holds, and the line of each key by its path."""
    import yaml  # type: ignore[import-untyped]

    try:
        loader = yaml.SafeLoader(path.read_text())
        try:
            root = loader.get_single_node()
            data = {} if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--config: {path}: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"--config: {path}: must hold keys and values")
    lines: dict[str, int] = {}
    if root is not None:
        _note_lines(path, root, "", lines)
    return data, lines


def _note_lines(path: Path, node: Any, prefix: str, lines: dict[str, int]) -> None:
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise SettingsError(
                f"{path}, line {line}: {name}: given twice, first in line {lines[name]}"
            )
        lines[name] = line
        if value.id == "mapping":
            _note_lines(path, value, f"{name}.", lines)


def _wrong(
    path: Path, line: int, key: str, message: str, right: Collection[str] = ()
) -> SettingsError:
    """A mistake, and the right key that looks most like the wrong one."""
    hint = did_you_mean(key.rpartition(".")[2], right)
    return SettingsError(f"{path}, line {line}: {key}: {message}{hint}")
