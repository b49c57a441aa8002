"""conf-server subclasses and composes vLLM: it never assigns into it.

The scan knows names, not values: every name that a module imports from vLLM, in any
scope, plain aliases of those, and what other modules of ours re-export.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCANNED = [ROOT / "conf_server", ROOT / "patches" / "vllm_confidence_plugin"]
OUR_PACKAGES = ("conf_server", "vllm_confidence_plugin")
MOCKS = ("mock", "unittest.mock", "pytest")


def is_in(module: str | None, package: str) -> bool:
    return module is not None and (module == package or module.startswith(f"{package}."))


def vllm_names(tree: ast.AST, reexported: frozenset[str] = frozenset()) -> set[str]:
    """Names bound to something of vLLM's."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if is_in(alias.name, "vllm"):
                    names.add(alias.asname or "vllm")
        elif isinstance(node, ast.ImportFrom):
            ours = node.level or any(is_in(node.module, package) for package in OUR_PACKAGES)
            for alias in node.names:
                if is_in(node.module, "vllm") or (ours and alias.name in reexported):
                    names.add(alias.asname or alias.name)
    grew = True
    while grew:
        aliases = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr)
            if isinstance(node.value, ast.Name | ast.Attribute) and root(node.value) in names
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        grew = not aliases <= names
        names |= aliases
    return names


def root(node: ast.AST) -> str | None:
    """The name a chain starts from: `a` in a.b["c"].d and in vars(a)["b"]."""
    while True:
        match node:
            case ast.Attribute(value=inner) | ast.Subscript(value=inner):
                node = inner
            case ast.Call(func=ast.Name(id="vars"), args=[inner]):
                node = inner
            case ast.Name(id=name):
                return name
            case _:
                return None


def monkey_patches(source: str, reexported: frozenset[str] = frozenset()) -> Iterator[int]:
    """Lines that change vLLM, or bring the tools for it."""
    tree = ast.parse(source)
    names = vllm_names(tree, reexported)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute() | ast.Subscript() if not isinstance(node.ctx, ast.Load):
                chain = ast.unparse(node)
                on_a_class = ".__class__." in chain or chain.startswith("type(")
                if root(node) in names or on_a_class or chain.startswith("sys.modules["):
                    yield node.lineno
            case ast.Call(
                func=ast.Name(id="setattr" | "delattr")
                | ast.Attribute(attr="__setattr__" | "__delattr__"),
                args=[target, *_],
            ) if root(target) in names:
                yield node.lineno
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Attribute(attr="__dict__") | ast.Call(func=ast.Name(id="vars")),
                    attr="update" | "setdefault" | "pop",
                ) as method
            ) if root(method) in names:
                yield node.lineno
            case ast.Import(names=aliases) if any(alias.name in MOCKS for alias in aliases):
                yield node.lineno
            case ast.ImportFrom(module=module, names=aliases) if module in MOCKS or any(
                f"{module}.{alias.name}" in MOCKS for alias in aliases
            ):
                yield node.lineno


IMPORTS = """
import vllm
import vllm.v1.engine.logprobs as engine_logprobs
from vllm.v1.engine import output_processor
from vllm.v1.engine.output_processor import OutputProcessor as Stock
from conf_server.engine.api_processes import vllm_cli_args
"""


@pytest.mark.parametrize(
    "bad",
    [
        "vllm.x = 1",
        "vllm.v1.engine.async_llm.AsyncLLM = Mine",
        "engine_logprobs.NONES = None",
        "Stock.add_request = mine",
        "Stock.add_request: object = mine",
        "Stock.limit += 1",
        "first, (Stock.add_request, *Stock.rest) = mine",
        "del Stock.add_request",
        "output_processor.OutputProcessor.add_request = mine",
        "output_processor.TABLE['key'] = mine",
        "Stock.__dict__['add_request'] = mine",
        "vars(Stock)['add_request'] = mine",
        "vars(output_processor).update(OutputProcessor=mine)",
        "output_processor.__dict__.update(OutputProcessor=mine)",
        "for Stock.attribute in range(3): pass",
        "with open('f') as Stock.file: pass",
        "setattr(Stock, 'add_request', mine)",
        "setattr(output_processor.OutputProcessor, 'add_request', mine)",
        "delattr(Stock, 'add_request')",
        "type.__setattr__(Stock, 'add_request', mine)",
        "alias = output_processor.OutputProcessor\nalias.add_request = mine",
        "alias = Stock\nagain = alias\nsetattr(again, 'add_request', mine)",
        "def late():\n    from vllm.config import VllmConfig\n    VllmConfig.x = 1",
        "class Mine(Stock):\n    Stock.add_request = None",
        "vllm_cli_args.make_arg_parser = mine",
        "type(stock).add_request = mine",
        "stock.__class__.add_request = mine",
        "import sys\nsys.modules['vllm.x'] = mine",
        "from unittest import mock\nmock.patch('vllm.x.y')",
        "from unittest.mock import patch\n@patch('vllm.x.y')\ndef f(): pass",
        "import unittest.mock\nunittest.mock.patch.object(Stock, 'add_request')",
        "from pytest import MonkeyPatch",
    ],
)
def test_the_scan_finds(bad: str) -> None:
    assert list(monkey_patches(IMPORTS + bad, frozenset({"vllm_cli_args"})))


@pytest.mark.parametrize(
    "good",
    [
        "def f(params): params.extra_args = {}",
        "def f(state): state.logprobs_processor = Stock()",
        "stock = Stock(None)\nstock.log_stats = True",
        "stock = Stock.adopt(other)\nsetattr(stock, 'log_stats', True)",
        "class Mine(Stock):\n    limit = 3\n    def f(self): self.limit = 4",
        "class Mine(Stock):\n    @classmethod\n    def f(cls): cls.cache = {}",
        "parser = vllm_cli_args.make_arg_parser(mine)\nparser.x = 1",
        "mine.__dict__.update(stock.__dict__)",
        "limit = output_processor.LIMIT + 1",
        "names = list(vars(Stock).items())",
        "table = {}\ntable['key'] = Stock",
        "import os\nos.environ['VLLM_LOGGING_LEVEL'] = 'INFO'",
    ],
)
def test_the_scan_accepts(good: str) -> None:
    assert not list(monkey_patches(IMPORTS + good, frozenset({"vllm_cli_args"})))


def test_vllm_is_left_as_it_is() -> None:
    sources = {
        path.relative_to(ROOT): path.read_text()
        for folder in SCANNED
        for path in sorted(folder.rglob("*.py"))
    }
    assert Path("conf_server/cli.py") in sources
    reexported = frozenset().union(*(vllm_names(ast.parse(text)) for text in sources.values()))
    found = [
        f"{path}:{line}: {text.splitlines()[line - 1].strip()}"
        for path, text in sources.items()
        for line in monkey_patches(text, reexported)
    ]
    assert not found
