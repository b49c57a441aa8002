"""What docs/clients.md says: blocks of code, what they print, and the versions of clients."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "clients.md"
SERVER: Final = "http://localhost:8000"
"""The server of the examples."""

_BLOCK: Final = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PIN: Final = re.compile(r"`(?P<name>[\w-]+)(?:\[[\w,]+\])?(?P<at>==|@)[\d.]+`")
_PRINTED: Final = re.compile(r"^.*(?:print|console\.log)\(.*\);?  ?(?:#|//) (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code that says whose it is: its fence reads "python openai" or the like.

    Attributes:
        language: `python`, `ts` or `yaml`.
        client: the name of its package.
        line: where it begins on the page, counted from 1.
    """

    language: str
    client: str
    line: int
    code: str

    def printed(self) -> list[str]:
        """The lines that it says it prints."""
        return _PRINTED.findall(self.code)

    def against(self, url: str, api_key: str = "none") -> str:
        """The code for another server than that of the examples."""
        code = self.code.replace(SERVER, url).replace('"none"', f'"{api_key}"')
        return code.replace("Bearer none", f"Bearer {api_key}")


def blocks(text: str) -> list[Block]:
    """The blocks of a page that have a client, in their order."""
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1, match[3])
        for match in _BLOCK.finditer(text)
    ]


def pins(text: str, separator: str) -> Mapping[str, Sequence[str]]:
    """What to install for each client: the packages of its row in the page's table, itself first.

    Args:
        separator: `==` for Python's packages, such as `dspy==3.4.1`; `@` for npm's.
    """
    rows = [list(_PIN.finditer(line)) for line in text.splitlines() if line.startswith("|")]
    chosen = [row for row in rows if row and row[0]["at"] == separator]
    return {row[0]["name"]: [match[0].strip("`") for match in row] for row in chosen}


def differences(block: Block, output: str) -> Sequence[str]:
    """Where the output of a block is not what the page says; numbers may differ by 0.02."""
    expected, found = block.printed(), output.split("\n")[:-1]
    if len(expected) != len(found):
        return [f"{len(found)} lines instead of {len(expected)}: {found}"]
    pairs = zip(expected, found, strict=True)
    return [f"{got!r} instead of {want!r}" for want, got in pairs if not _alike(want, got)]


def _alike(want: str, got: str) -> bool:
    wanted, words = want.split(), got.split()
    return len(wanted) == len(words) and all(map(_same_word, wanted, words))


def _same_word(want: str, got: str) -> bool:
    try:
        return abs(float(want) - float(got)) <= 0.02
    except ValueError:
        return want == got
