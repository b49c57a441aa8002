"""A fingerprint of a model's weights, from the files that they were loaded from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import HFValidationError

_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".gguf")
"""Of files with weights, in the order of preference: a folder may hold the same twice."""

_BLOCK: Final = 1 << 16
_BLOCKS: Final = 32
"""A file is known by its size and by as many blocks of so many bytes, the first and the last among
them: reading all of a large model would take minutes, and training changes every block."""


def weights_fingerprint(
    model: str, revision: str | None = None, cache: str | None = None
) -> str | None:
    """A hash of a model's weights; None where they come from no files, or from none at hand.

    Args:
        model: a folder, a file, or a name on the hub whose files have been downloaded.
        cache: where to; None for the hub's own cache.
    """
    files = _weight_files(model, revision, cache)
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        _add(digest, path)
    return f"sha256:{digest.hexdigest()}"


def weights_bytes(model: str, revision: str | None, cache: str | None) -> int | None:
    """What a model's weights take on disk; None where they are in no files that are at hand.

    Args:
        model: as in `weights_fingerprint`.
        cache: folder of what is downloaded; None for the hub's own.
    """
    files = _weight_files(model, revision, cache)
    return sum(path.stat().st_size for path in files) if files else None


def _weight_files(model: str, revision: str | None, cache: str | None) -> list[Path]:
    path = Path(model)
    if path.is_file():
        return [path]
    if not path.is_dir():
        try:
            path = Path(
                snapshot_download(model, revision=revision, cache_dir=cache, local_files_only=True)
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
            return []
    for suffix in _SUFFIXES:
        if files := sorted(path.glob(f"*{suffix}")):
            return files
    return []


def _add(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    last = max(size - _BLOCK, 0)
    with path.open("rb") as file:
        for start in sorted({last * i // (_BLOCKS - 1) for i in range(_BLOCKS)}):
            file.seek(start)
            digest.update(file.read(_BLOCK))
