"""The texts of a check, and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf_server.check.texts import TextsError, texts_of, tokenized
from tests.unit.check.rows import (
    Characters,
)


def test_the_chat_is_as_the_template_writes_it() -> None:
    ids = tokenized(Characters("template"), {}, 4000, 128, 32)
    assert Characters().decode(ids["chat"]) == "<What is the capital of France?>"
    assert "chat" not in tokenized(Characters(), {}, 4000, 128, 32)


@pytest.mark.parametrize(("block", "new_tokens"), [(128, 32), (16, 32), (16, 100), (1, 1)])
def test_generation_crosses_the_border_of_a_block(block: int, new_tokens: int) -> None:
    (length,) = (len(ids) for name, ids in _texts(block, new_tokens).items() if name == "border")
    assert length >= 1
    assert length // block < (length + new_tokens) // block


def test_no_border_where_a_block_is_longer_than_the_prose() -> None:
    assert "border" not in _texts(10_000, 32)


def test_texts_are_cut_at_the_limit_and_the_users_come_too() -> None:
    ids = tokenized(Characters(), {"line 1": "Hello"}, 100, 128, 32)
    assert ids["line 1"] == Characters().encode("Hello")
    assert max(map(len, ids.values())) == 100


def _texts(block: int, new_tokens: int) -> dict[str, list[int]]:
    return tokenized(Characters(), {}, 10_000, block, new_tokens)


def test_a_file_holds_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("one\n\n  \nzwei Wörter\n", encoding="utf-8")
    assert texts_of(path) == {"line 1": "one", "line 4": "zwei Wörter"}


def test_only_newlines_end_a_text_and_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    strange = "one\u2028still\x85one\x0c, \rreally"
    path = tmp_path / "texts"
    path.write_bytes(f"\ufefffirst\r\n{strange}\nthird".encode())
    assert texts_of(path) == {"line 1": "first", "line 2": strange, "line 3": "third"}


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_texts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "texts"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextsError, match="--texts"):
        texts_of(path)
