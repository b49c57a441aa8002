"""What a terminal gets to see of texts that are not our own."""

from __future__ import annotations

import pytest

from conf_server import terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ä 漢字 👩‍🚀\n\tnext", "plain – ä 漢字 👩‍🚀\n\tnext"),
        ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        ("\x9b31m\r\x7f", r"\x9b31m\r\x7f"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert terminal.readable(text) == shown


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = terminal.shortened(f"begin{'x' * 3_000_000}end", 100)
    assert text.startswith("beginxxx")
    assert text.endswith("xxxend")
    assert " 2999908 characters more " in text
    assert len(text) < 150
    assert terminal.shortened("short", 100) == "short"
