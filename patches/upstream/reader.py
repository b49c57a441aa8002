"""From vLLM's sources to a record: what stands behind each name.

This uses `ast` and neither griffe nor mypy, which were tried on vLLM 0.33.0. griffe 2.4 reads the
whole package (33 s, 0.4 GB; this takes 1 s) and does not keep the bodies of functions: it does not
find what `init_generate_state` assigns, the options that `make_arg_parser` adds, attributes that
are first assigned outside of `__init__` (16 of the 350 names), or whether a function is a
generator. mypy on our code against the extracted sources found 6 of 11 changes made by hand: it
says nothing of a method of vLLM's that we override and that is gone, of a positional parameter
that was renamed, nor of anything that is taken from an object without a type (`args.host`,
`app.state`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sources import SourceTree
from surface import Need

Entry = dict[str, Any]
"""What a record says of one name: its kind, and what else this kind has, such as parameters."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Assignment = ast.Assign | ast.AnnAssign

_DESCRIPTORS = {
    "classmethod": "classmethod",
    "staticmethod": "staticmethod",
    "property": "property",
    "cached_property": "property",
}


@dataclass(frozen=True)
class Found:
    """Where a name is defined. `node` is None where that is outside of vLLM."""

    module: str
    name: str
    node: ast.AST | None
    owner: ast.ClassDef | None = None


def read_entries(tree: SourceTree, needs: Iterable[Need]) -> dict[str, Entry]:
    """Describe each name that is there, by its key."""
    reader = _Reader(tree)
    entries = ((need.key, reader.entry(need)) for need in needs)
    return {key: entry for key, entry in entries if entry is not None}


def read_members(tree: SourceTree, needs: Iterable[Need]) -> dict[str, set[str]]:
    """List what each class that we subclass, and its bases in vLLM, define; by the class's key."""
    reader = _Reader(tree)
    return {need.key: reader.members(need) for need in needs if "subclassed" in need.uses}


def parameters(function: Function) -> list[str]:
    """Write a signature as Python does, with one item for each parameter and defaults as `=...`."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    required = len(positional) - len(args.defaults)
    items = [f"{arg.arg}=..." if i >= required else arg.arg for i, arg in enumerate(positional)]
    if args.posonlyargs:
        items.insert(len(args.posonlyargs), "/")
    if args.vararg or args.kwonlyargs:
        items.append(f"*{args.vararg.arg}" if args.vararg else "*")
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        items.append(arg.arg if default is None else f"{arg.arg}=...")
    if args.kwarg:
        items.append(f"**{args.kwarg.arg}")
    return items


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, also those inside of an if, try or with."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements(handler.body)


def assigned(statement: ast.stmt) -> list[ast.expr]:
    """Return what a statement assigns to."""
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


class _Reader:
    """Resolves the names of one tree of sources."""

    def __init__(self, tree: SourceTree) -> None:
        self._tree = tree

    def entry(self, need: Need) -> Entry | None:
        found = self._locate(need.module, need.name)
        if found is None:
            return None
        entry = self._describe(found, need)
        if (place := f"{found.module}:{found.name}") != need.key:
            entry["defined_in"] = place
        return entry

    def members(self, need: Need) -> set[str]:
        """Every name that a subclass could collide with; empty where the class is missing."""
        found = self._locate(need.module, need.name)
        names: set[str] = set()
        for owner in self._lineage(found) if found is not None else ():
            assert isinstance(owner.node, ast.ClassDef)
            for statement in statements(owner.node.body):
                if isinstance(statement, ast.ClassDef | Function):
                    names.add(statement.name)
                names |= {t.id for t in assigned(statement) if isinstance(t, ast.Name)}
            names |= {target.attr for target in _self_targets(owner.node)}
        return names

    def _describe(self, found: Found, need: Need) -> Entry:
        node = found.node
        if isinstance(node, ast.ClassDef):
            return self._describe_class(found, node, need)
        if isinstance(node, Function):
            return {"kind": _function_kind(node, found.owner), "parameters": parameters(node)}
        return {"kind": _value_kind(node, found.owner)}

    def _describe_class(self, found: Found, node: ast.ClassDef, need: Need) -> Entry:
        entry: Entry = {"kind": "class", "bases": [ast.unparse(base) for base in node.bases]}
        if "NamedTuple" in entry["bases"]:
            entry["fields"] = [item.rstrip("=.") for item in _field_parameters(node)]
        if "called" in need.uses and (constructor := self._constructor(found)):
            entry["parameters"] = constructor
        return entry

    def _constructor(self, found: Found) -> list[str]:
        """Parameters of `__init__`, or those that dataclasses and their like make of the fields.

        The list is empty where the constructor is not vLLM's.
        """
        init = self._member(found, "__init__")
        if init is not None and isinstance(init.node, Function):
            return parameters(init.node)[1:]
        fields: dict[str, None] = {}
        for owner in reversed(list(self._lineage(found))):
            assert isinstance(owner.node, ast.ClassDef)
            fields |= dict.fromkeys(_field_parameters(owner.node))
        return list(fields)

    def _locate(self, module: str, name: str) -> Found | None:
        first, *rest = name.split(".")
        found = self._find(module, first)
        while found is not None and rest:
            if isinstance(found.node, Function):
                return _in_function(found, ".".join(rest))
            if isinstance(found.node, ast.AnnAssign):  # an object: on with its class
                found = self._find(found.module, ast.unparse(found.node.annotation))
            else:
                found = self._member(found, rest.pop(0))
        return found

    def _find(self, module: str, name: str) -> Found | None:
        """Find a name in a module: definitions come before imports, and those before assignments.

        So a fallback (`X = None` where an import fails) is not taken for the thing itself.
        """
        if module not in self._tree:
            return None
        ranks: dict[int, Found] = {}
        for statement in statements(self._tree.parse(module).body):
            if isinstance(statement, ast.ClassDef | Function) and statement.name == name:
                ranks[0] = Found(module, name, statement)
            elif isinstance(statement, ast.ImportFrom | ast.Import):
                if 1 not in ranks and (found := self._imported(module, statement, name)):
                    ranks[1] = found
            elif any(isinstance(t, ast.Name) and t.id == name for t in assigned(statement)):
                ranks.setdefault(2, Found(module, name, statement))
        return ranks[min(ranks)] if ranks else None

    def _imported(
        self, module: str, statement: ast.ImportFrom | ast.Import, name: str
    ) -> Found | None:
        for alias in statement.names:
            if (alias.asname or alias.name) != name:
                continue
            if isinstance(statement, ast.Import):
                return Found(alias.name, "", None)
            source = self._absolute(module, statement)
            if source.partition(".")[0] != "vllm":
                return Found(source, alias.name, None)
            if f"{source}.{alias.name}" in self._tree:
                return Found(f"{source}.{alias.name}", "", None)
            return None if source == module else self._find(source, alias.name)
        return None

    def _absolute(self, module: str, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parts = module.split(".")
        up = statement.level - (1 if self._tree.is_package(module) else 0)
        return ".".join([*parts[: len(parts) - up], *filter(None, [statement.module])])

    def _lineage(self, found: Found) -> Iterator[Found]:
        """Yield a class and those of its bases that are vLLM's, nearest first."""
        if not isinstance(found.node, ast.ClassDef):
            return
        yield found
        for base in found.node.bases:
            expression = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(expression, ast.Name) and expression.id != found.name:
                parent = self._find(found.module, expression.id)
                if parent is not None:
                    yield from self._lineage(parent)

    def _member(self, found: Found, name: str) -> Found | None:
        for owner in self._lineage(found):
            assert isinstance(owner.node, ast.ClassDef)
            if (node := _own_member(owner.node, name)) is not None:
                return Found(owner.module, f"{owner.name}.{name}", node, owner.node)
        return None


def _own_member(node: ast.ClassDef, name: str) -> ast.AST | None:
    for statement in statements(node.body):
        if isinstance(statement, ast.ClassDef | Function) and statement.name == name:
            # What counts is the implementation of an overloaded method, which comes last, and the
            # getter of a property, which comes first.
            if _decorators(statement) & {"overload", "setter", "deleter"}:
                continue
            return statement
        if any(isinstance(t, ast.Name) and t.id == name for t in assigned(statement)):
            return statement
    return next((target for target in _self_targets(node) if target.attr == name), None)


def _self_targets(node: ast.ClassDef) -> Iterator[ast.Attribute]:
    """Yield every `self.x` that a class assigns to, in any of its methods."""
    for part in ast.walk(node):
        if (
            isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store)
            and isinstance(part.value, ast.Name)
            and part.value.id == "self"
        ):
            yield part


def _in_function(found: Found, rest: str) -> Found | None:
    """Find something that a function assigns to, or a string in it, such as an option or a key."""
    assert found.node is not None
    for node in ast.walk(found.node):
        is_string = isinstance(node, ast.Constant) and node.value == rest
        is_target = isinstance(node, Assignment) and rest in map(ast.unparse, assigned(node))
        if is_string or is_target:
            return Found(found.module, f"{found.name}.{rest}", node)
    return None


def _decorators(node: ast.ClassDef | Function) -> set[str]:
    """Return the last parts of the decorators' names."""
    names = set()
    for decorator in node.decorator_list:
        expression = decorator.func if isinstance(decorator, ast.Call) else decorator
        names.add(ast.unparse(expression).rpartition(".")[2])
    return names


def _function_kind(node: Function, owner: ast.ClassDef | None) -> str:
    kind = "function" if owner is None else "method"
    for decorator in _decorators(node):
        kind = _DESCRIPTORS.get(decorator, kind)
    flow = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{flow}{'generator ' if _yields(node.body) else ''}{kind}"


def _value_kind(node: ast.AST | None, owner: ast.ClassDef | None) -> str:
    if node is None:
        return "import"
    if isinstance(node, ast.Constant):
        return "string"
    if isinstance(node, ast.Attribute):
        return "attribute"
    if owner is not None:
        return "field" if isinstance(node, ast.AnnAssign) else "class attribute"
    assert isinstance(node, Assignment)
    is_variable = any(isinstance(target, ast.Name) for target in assigned(node))
    return "variable" if is_variable else "assignment"


def _yields(body: Iterable[ast.AST]) -> bool:
    """Say whether a body yields, leaving out the functions inside of it."""
    for node in body:
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if isinstance(node, ast.Lambda | ast.ClassDef | Function):
            continue
        if _yields(ast.iter_child_nodes(node)):
            return True
    return False


def _field_parameters(node: ast.ClassDef) -> list[str]:
    """Write the fields that a class body annotates as parameters of its constructor, in order."""
    return [
        statement.target.id if _is_required(statement.value) else f"{statement.target.id}=..."
        for statement in statements(node.body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    ]


def _is_required(value: ast.expr | None) -> bool:
    """Say whether a field has no default, neither a plain one nor one named in `field(...)`."""
    if value is None:
        return True
    if not isinstance(value, ast.Call) or ast.unparse(value.func).lower() != "field":
        return False
    if value.args:
        return isinstance(value.args[0], ast.Constant) and value.args[0].value is Ellipsis
    return not any(word.arg in ("default", "default_factory") for word in value.keywords)
