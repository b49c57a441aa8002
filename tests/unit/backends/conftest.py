"""The embedded model, loaded by transformers, for the tests of that backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conf_server.backends.transformers import TransformersBackend
from conf_server.backends.transformers_forward import ForwardPasses
from conf_server.backends.transformers_model import LoadedModel, load
from conf_server.backends.transformers_options import TransformersOptions


@pytest.fixture(scope="session")
def options(model_path: Path) -> TransformersOptions:
    return TransformersOptions(str(model_path), dtype="float32", device="cpu", max_len=512)


@pytest.fixture(scope="package")
def one_thread() -> Iterator[None]:
    """Passes are so small that threads would wait for each other more than they work.

    It ends with this folder's tests: sums of others are rounded as their threads have it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def loaded(options: TransformersOptions, one_thread: None) -> LoadedModel:
    return load(options)


@pytest.fixture(scope="package")
def passes(loaded: LoadedModel) -> ForwardPasses:
    return ForwardPasses(loaded.model)


@pytest.fixture
def backend(
    loaded: LoadedModel, passes: ForwardPasses, options: TransformersOptions
) -> Iterator[TransformersBackend]:
    """A backend of the loaded model; its thread and what it queues are its own."""
    made = TransformersBackend(loaded, passes, options)
    yield made
    made.close()
