"""The fingerprint of a model's weights, from their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf_server.engine.weights import weights_fingerprint

CONTENT = bytes(range(256)) * 40_000  # ten megabytes, of which not all is read


def fingerprint(folder: Path, **files: bytes) -> str | None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return weights_fingerprint(str(folder))


def test_equal_weights_are_equal_wherever_they_lie(tmp_path: Path) -> None:
    first = fingerprint(tmp_path / "a", model_safetensors=CONTENT, config_json=b"{}")
    assert first == fingerprint(tmp_path / "b", model_safetensors=CONTENT)
    assert first is not None
    assert first.startswith("sha256:")


@pytest.mark.parametrize("place", [0, len(CONTENT) - 1])
def test_other_weights_are_others(tmp_path: Path, place: int) -> None:
    other = bytearray(CONTENT)
    other[place] ^= 1
    first = fingerprint(tmp_path / "a", model_safetensors=CONTENT)
    assert first != fingerprint(tmp_path / "b", model_safetensors=bytes(other))
    assert first != fingerprint(tmp_path / "c", model_safetensors=CONTENT[:-1])
    assert first != fingerprint(tmp_path / "d", model_safetensors=CONTENT, more_safetensors=b"x")


def test_weights_that_are_not_at_hand_have_none(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "a", config_json=b"{}") is None
    assert weights_fingerprint("nobody/nothing") is None


def test_a_file_may_be_the_model(tmp_path: Path) -> None:
    fingerprint(tmp_path / "a", model_gguf=CONTENT)
    path = tmp_path / "a/model.gguf"
    found = weights_fingerprint(str(path))
    assert found == weights_fingerprint(str(tmp_path / "a"))
