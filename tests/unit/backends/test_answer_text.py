"""Text that comes token by token, and what is held back of it."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.backends.answer_text import AnswerText
from tests.reference import Reference


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


def shown(text: str, *stop: str, **options: Any) -> tuple[list[str], AnswerText]:
    """What may be shown after each letter, up to the one that stops."""
    answer = AnswerText(Letters(), [], stop, **options)
    pieces = []
    for letter in text:
        pieces.append(answer.push(ord(letter)))
        if answer.stopped is not None:
            break
    return [*pieces, answer.finish()], answer


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert shown("abc")[0] == ["a", "b", "c", ""]


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    pieces, answer = shown("aENx", "END")
    assert pieces == ["a", "", "", "ENx", ""]
    assert answer.stopped is None


def test_what_is_held_back_at_the_end_comes_with_it() -> None:
    assert shown("aEN", "END")[0] == ["a", "", "", "EN"]


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "aEND")])
def test_the_text_ends_at_a_stop_string(include: bool, text: str) -> None:
    pieces, answer = shown("aENDb", "never", "END", include_stop=include)
    assert "".join(pieces) == text
    assert answer.stopped == "END"


def test_the_stop_string_that_comes_first_counts() -> None:
    pieces, answer = shown("xabab", "bab", "ab")
    assert "".join(pieces) == "x"
    assert answer.stopped == "ab"


def test_a_beginning_within_another_is_found() -> None:
    assert "".join(shown("aaab", "aab")[0]) == "a"


def test_a_stop_string_does_not_count_before_its_time() -> None:
    answer = AnswerText(Letters(), [], ["ab"])
    assert answer.push(ord("a"), may_stop=False) == ""
    assert answer.push(ord("b"), may_stop=False) == "ab"
    assert answer.push(ord("a"), may_stop=False) == ""
    assert answer.push(ord("b"), may_stop=True) == ""
    assert answer.stopped == "ab"


def test_characters_wait_until_they_are_whole(reference: Reference) -> None:
    text = "é 東京 😀!"
    ids = reference.tokenizer.encode(text)
    answer = AnswerText(reference.tokenizer, reference.tokenizer.encode("Say:"))
    pieces = [answer.push(token) for token in ids]
    assert "".join(pieces) == text
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_is_never_whole_is_left_out(reference: Reference) -> None:
    *begun, _ = reference.tokenizer.encode("a 😀")
    answer = AnswerText(reference.tokenizer, [])
    assert "".join([*map(answer.push, begun), answer.finish()]) in ("a", "a ")
