"""The flags of `vllm serve`, read off the source of the vLLM that is installed.

Importing vLLM takes about ten seconds; reading the two files that define its flags takes 50 ms.
What is read is used for one thing: to refuse a flag at once that neither vLLM nor we have. It can
hold more names than vLLM's parser has, and must never lack one: the tests compare it with the
parser of every supported release. Everything else, and all of it where the installed release is
none of those, is left to vLLM's parser.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

RELEASES: Final = ("0.31", "0.32", "0.33")
"""The releases whose source this module can read."""

_SOURCES: Final = ("engine/arg_utils.py", "entrypoints/*/cli_args.py")
_FRONTEND: Final = "FrontendArgs"
"""The end of the names of classes whose fields are flags; all other flags are written out."""

_FLAG: Final = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*")
_VERSION: Final = re.compile(r"^__version__ = version = '(\d+\.\d+)\.", re.MULTILINE)

_TRANSLATED: Final = "-O"
"""vLLM's parser writes `-O3` as `--optimization-level 3` before it looks at flags."""

_OPPOSITES: Final = ("no-", "enable-", "disable-")
"""A switch may have an opposite, which is not written out: `--no-X`, or since vLLM 0.33
`--disable-X` for `--enable-X`, and the other way around."""


@cache
def installed_flags() -> frozenset[str] | None:
    """Every flag of the installed vLLM, with its dashes; None where that cannot be known."""
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    if entry_points(group="vllm.platform_plugins"):  # They may add flags of their own.
        return None
    return flags_of(Path(spec.submodule_search_locations[0]))


def flags_of(folder: Path) -> frozenset[str] | None:
    """The flags that vLLM's sources in a folder define.

    None where they are of a release that is not in `RELEASES`, or are not where they should be.
    """
    try:
        version = _VERSION.search((folder / "_version.py").read_text())
        paths = [path for pattern in _SOURCES for path in folder.glob(pattern)]
        if version is None or version[1] not in RELEASES or len(paths) != len(_SOURCES):
            return None
        return frozenset(flag for path in paths for flag in _defined(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError):  # Whatever it is: vLLM's own parser is the one that knows.
        return None


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if _FLAG.fullmatch(text):
                yield text
            case ast.ClassDef(name=name, body=body) if name.endswith(_FRONTEND):
                for field in body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        yield f"--{field.target.id.replace('_', '-')}"


def dashed(word: str) -> str:
    """A word with `--max_model_len=a_b` as `--max-model-len=a_b`, as vLLM's parser takes both.

    What stands behind a point (`--compilation-config.pass_config`) is no part of the flag.
    """
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    name, point, key = flag.partition(".")
    return f"{name.replace('_', '-')}{point}{key}{equals}{value}"


def may_be_flag(word: str, flags: frozenset[str]) -> bool:
    """Whether a word can be one of the flags, an abbreviation, or the opposite of a switch.

    Args:
        word: without its value and without what follows a point.
    """
    if word.startswith(_TRANSLATED):
        return True
    if not word.startswith("--"):
        short = [flag for flag in flags if not flag.startswith("--")]
        return any(word.startswith(flag) or flag.startswith(word) for flag in short)
    return any(form.startswith(word) for flag in flags for form in _forms(flag))


def _forms(flag: str) -> Iterator[str]:
    """A flag, and all opposites that it could have."""
    yield flag
    name = flag.removeprefix("--")
    yield f"--no-{name}"
    core = next((name.removeprefix(one) for one in _OPPOSITES if name.startswith(one)), name)
    for start in _OPPOSITES:
        yield f"--{start}{core}"
