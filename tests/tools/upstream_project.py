"""A made-up repository and a made-up vLLM for the tests of patches/upstream."""

from __future__ import annotations

import zipfile
from pathlib import Path
from textwrap import dedent

import check
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

OURS = """
    from vllm import Engine
    from vllm.handlers import Handler, Rows, make
    from vllm import handlers as stock

    class OurHandler(Handler):
        def _answer(self, tokens, top=None):
            return super()._answer(tokens, top), self.width, stock.LIMIT

    def run(engine: Engine, rows: Rows):
        return make(rows)
"""

SURFACE = """
    ["vllm"]
    Engine = { use = "imported", why = "annotations" }

    ["vllm.handlers"]
    Handler = { use = "subclassed", why = "answers" }
    "Handler._answer" = { use = "overridden", why = "answers more" }
    "Handler.width" = { use = "read", why = "how wide" }
    LIMIT = { use = "read", why = "how many" }
    Rows = { use = "imported", why = "unpacked by position" }
    make = { use = "called", why = "makes" }
    "make.state.handler" = { use = "read", why = "where it puts the handler" }
    "Output.logprobs" = { use = "read", why = "numbers" }
"""

UPSTREAM = {
    "__init__.py": """
        import typing
        if typing.TYPE_CHECKING:
            from .engine import Engine
        else:
            def __getattr__(name): ...
    """,
    "engine.py": """
        class Engine: ...
    """,
    "base.py": """
        class Base:
            def __init__(self, width):
                self.width = width
    """,
    "handlers.py": """
        from typing import NamedTuple
        from vllm.base import Base

        LIMIT = 20

        class Handler(Base):
            async def _answer(self, tokens, top=None): ...

        class Rows(NamedTuple):
            ids: list
            logprobs: list

        class Output:
            logprobs: list | None = None

        def make(rows, *, strict=False):
            state.handler = Handler(1)
    """,
}


class Project:
    """A repository with our code, and wheels of a vLLM that can be edited."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._root, self._capsys = root, capsys
        self.upstream = dict(UPSTREAM)
        self.write("conf_server/__init__.py", "")
        self.write("conf_server/handler.py", OURS)
        self.write("patches/upstream/surface.toml", SURFACE)
        self.home = check.Home.of(root)

    def write(self, path: str, text: str) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text), encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        assert old in self.upstream[path]
        self.upstream[path] = self.upstream[path].replace(old, new)

    def wheel(self, version: str = "1.0.0", name: str = "vllm") -> Path:
        path = self._root / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("vllm/data.bin", "not a source")
            for member, text in self.upstream.items():
                wheel.writestr(f"vllm/{member}", dedent(text))
        return path

    def check(self, *flags: str, version: str = "1.0.0") -> tuple[int, str]:
        """Run the checker on the present sources; returns exit status and output."""
        return self.run("--vllm", version, "--wheel", str(self.wheel(version)), *flags)

    def run(self, *argv: str) -> tuple[int, str]:
        self._capsys.readouterr()
        try:
            status = check.main(argv, self.home)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = self._capsys.readouterr()
        return status, captured.out + captured.err
