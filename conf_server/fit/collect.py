"""Lets the server read every line, and keeps what its layers make of them in files."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from conf_server.batch.batch_client import BatchClient
from conf_server.batch.endpoint import LineError
from conf_server.batch.file_job import FileJob
from conf_server.batch.options import StopRunError, UsageError
from conf_server.batch.own_server import with_server
from conf_server.batch.records import parse_record
from conf_server.batch.run import Counts
from conf_server.batch.streams import open_input
from conf_server.fit.options import FitOptions
from conf_server.fit.passes import ASKING, Pass, head_passes, passes
from conf_server.heads.features import FeatureRow, ModelShape
from conf_server.heads.luh_config import HeadError
from conf_server.signals import Signals
from conf_server.uncertainty.fitted import ModelIdentity

STATES: Final = "states"
"""Folder of the collected numbers, in that of the fit."""

MODEL: Final = "model.json"
"""In that folder: what model they are of."""


@dataclass(frozen=True)
class Collected:
    """What there is to learn from.

    Attributes:
        layers: by method, counted from 0; None where a method reads all.
        files: each pass and the file of its answers.
        num_heads: of attention in a layer; None where the server does not say it.
    """

    model: ModelIdentity
    layers: Mapping[str, int | None]
    files: list[tuple[Pass, Path]]
    num_heads: int | None = None


def check_lines(path: str) -> tuple[int, int]:
    """Read a file before anything is asked. Returns how many lines it has, and with a label.

    Raises:
        UsageError: the file cannot be read, a line is wrong, or there is none.
    """
    count = labelled = number = 0
    try:
        with open_input(path) as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    count += 1
                    labelled += _is_labelled(number, text)
    except LineError as error:
        raise UsageError(f"{path}, line {number}: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: after line {number}: {error}") from error
    if not count:
        raise UsageError(f"{path}: there is no line in it")
    return count, labelled


def _is_labelled(number: int, text: bytes) -> bool:
    record = parse_record(ASKING, number, text, {})
    record.check_label()
    correct = record.kept.get("correct")
    if not isinstance(correct, bool | None):
        raise LineError("`correct` must be true or false")
    return correct is not None


async def collect(options: FitOptions, signals: Signals, counts: Counts) -> Collected:
    """Do all passes, and go on with those that an earlier run has begun.

    Args:
        counts: counts the lines of all passes together.

    Raises:
        UsageError: the files do not go together with those of an earlier run.
        StopRunError: no further line can be answered.
        OSError: nothing more can be written.
    """
    done: list[Collected] = []

    async def work(url: str) -> None:
        async with BatchClient(url, options.batch) as client:
            said = await client.get(ASKING.path)
            model, heads = _identity(said), said.get("num_heads")
            layers = {name: options.layer(name, model.num_layers) for name in options.methods}
            folder = options.folder / STATES
            _begin(folder, model, options.batch.overwrite)
            files = []
            asked = passes(options.methods, layers)
            if options.head is not None:
                asked += head_passes(features_of(options, model, heads))
            for one in asked:
                path = folder / one.file_name
                await _answered(options, one, path, url, signals, counts)
                files.append((one, path))
            done.append(Collected(model, layers, files, heads))

    with signals.handled():
        await with_server(options.batch, work)
    return done[0]


async def _answered(
    options: FitOptions,
    one: Pass,
    path: Path,
    url: str,
    signals: Signals,
    counts: Counts,
) -> None:
    text = options.background if one.corpus == "background" else options.train
    assert text is not None
    batch = replace(options.batch, endpoint=one.endpoint, input=text, output=str(path))
    with ExitStack() as stack:
        job = await FileJob.opened(batch, stack)
        counts.there += job.num_answered
        async with BatchClient(url, batch) as client:
            await job.run(client, counts, signals)
    if signals.received:
        raise asyncio.CancelledError


def features_of(options: FitOptions, model: ModelIdentity, num_heads: int | None) -> FeatureRow:
    """What the head that is to be trained reads of this model.

    Raises:
        UsageError: the model lacks a layer or a head that --head-config names.
    """
    assert options.head is not None
    shape = ModelShape(model.num_layers, num_heads or 0, model.hidden_size)
    try:
        return FeatureRow(options.head.extractors, shape)
    except HeadError as error:
        raise UsageError(f"--head-config: {error}") from error


def _identity(answer: Mapping[str, Any]) -> ModelIdentity:
    match answer:
        case {
            "object": "hidden_states.model",
            "root": str(root),
            "num_layers": int(num_layers),
            "hidden_size": int(hidden_size),
            "weights": str() | None as weights,
            "chat_template": str() | None as template,
        }:
            return ModelIdentity(root, num_layers, hidden_size, weights, template)
    raise StopRunError(f"{ASKING.path}: the server does not say what its hidden states are of")


def _begin(folder: Path, model: ModelIdentity, overwrite: bool) -> None:
    """Make the folder of states, or make sure that those in it are of the same model.

    Raises:
        UsageError: they are of another.
    """
    os.makedirs(folder, exist_ok=True)
    path = folder / MODEL
    if not overwrite and path.exists():
        try:
            before = ModelIdentity(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}: damaged; --overwrite starts anew") from error
        if reason := before.difference(model):
            raise UsageError(f"{folder}: {reason}; --overwrite starts anew")
        return
    path.write_text(json.dumps(asdict(model)) + "\n")
