"""What our own code takes from vLLM, read with ast alone: imports, subclasses, overrides."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reader import Entry, Function, assigned, parameters, statements
from surface import Need, Surface

Target = tuple[str, str]
"""A module and a name in it. An empty name stands for the module itself."""

Members = Mapping[str, set[str]]
"""The names that a class of vLLM's and its bases define, by the class's key."""

_PYDANTIC = "model_"


@dataclass(frozen=True)
class Use:
    """One place that relies on vLLM.

    Attributes:
        where: file and line.
        targets: what it relies on. Where versions differ there are several, one of which has to be
            listed.
        how: one of `surface.USES`.
    """

    where: str
    targets: tuple[Target, ...]
    how: str

    def remedy(self, needs: Mapping[str, Need], modules: set[str]) -> str | None:
        """Return the line that surface.toml lacks for this, or None where it lacks none."""
        listed = [needs[key] for target in self.targets if (key := ":".join(target)) in needs]
        if listed and self.how in ("subclassed", "overridden"):
            if any(self.how in need.uses for need in listed):
                return None
        elif listed or any(".".join(filter(None, t)) in modules for t in self.targets):
            return None
        module, name = self.targets[0]
        if not name:
            return f'a table ["{module}"]'
        use = ", ".join(sorted({self.how}.union(*(need.uses for need in listed))))
        quoted = f'"{name}"' if "." in name else name
        return f'under ["{module}"]:\n    {quoted} = {{ use = "{use}", why = "..." }}'


@dataclass
class OurFile:
    """One module of ours."""

    path: Path
    module: str
    tree: ast.Module
    aliases: dict[str, list[Target]]
    classes: dict[str, ast.ClassDef]

    @classmethod
    def parse(cls, path: Path, root: Path) -> OurFile:
        parts = [path.stem] if path.stem != "__init__" else []
        folder = path.parent
        while (folder / "__init__.py").exists():
            parts.insert(0, folder.name)
            folder = folder.parent
        module = ".".join(parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        nodes = list(ast.walk(tree))
        aliases: dict[str, list[Target]] = {}
        for node in nodes:
            for name, target in _imports(node, package):
                aliases.setdefault(name, []).append(target)
        for name, value in _renamings(nodes):
            if value in aliases and name not in aliases:
                aliases[name] = aliases[value]
        classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        return cls(path.relative_to(root), module, tree, aliases, classes)

    def at(self, node: ast.expr | ast.stmt) -> str:
        return f"{self.path}:{node.lineno}"


@dataclass
class OurClass:
    """A class of ours with the classes of vLLM's that it derives from, directly or not."""

    file: OurFile
    node: ast.ClassDef
    bases: list[Target]
    members: dict[str, ast.stmt]

    def inherited(self, name: str, members: Members) -> tuple[Target, ...]:
        """Return `Base.name` for every base that has such a member."""
        return tuple(
            (module, f"{base}.{name}")
            for module, base in self.bases
            if name in members.get(f"{module}:{base}", ())
        )


class OurCode:
    """Our packages, parsed."""

    def __init__(self, packages: Sequence[Path], root: Path) -> None:
        paths = sorted(path for package in packages for path in package.rglob("*.py"))
        files = [OurFile.parse(path, root) for path in paths]
        self._files = {file.module: file for file in files}
        self.classes = [found for file in files for found in self._classes(file)]

    def unlisted(self, surface: Surface, members: Members) -> list[str]:
        """List what our code takes from vLLM and surface.toml lacks, each with its remedy."""
        needs, modules = {need.key: need for need in surface.entries()}, surface.modules()
        remedies: dict[str, str] = {}
        for use in self._uses(modules, members):
            if remedy := use.remedy(needs, modules):
                remedies.setdefault(remedy, use.where)
        return [f"{where}: surface.toml needs {remedy}" for remedy, where in remedies.items()]

    def unused(self, surface: Surface) -> list[str]:
        """List what surface.toml says that our code no longer does.

        This leaves out members that are only read or called: the objects that they belong to have
        classes that ast does not know.
        """
        listed: dict[str, set[str]] = {}
        for need in surface.entries():
            owner, _, member = need.key.rpartition(".")
            listed.setdefault(owner, set()).add(member)
        uses = self._uses(surface.modules(), listed)
        used = {":".join(target) for use in uses for target in use.targets}
        overridden = {
            ":".join(target) for use in uses if use.how == "overridden" for target in use.targets
        }
        return [
            f"{need.key}: listed as {', '.join(sorted(need.uses))}, but is not"
            for need in surface.entries()
            if ("." not in need.name and need.uses != {"read"} and need.key not in used)
            or ("overridden" in need.uses and need.key not in overridden)
        ]

    def incompatible(self, names: Mapping[str, Entry]) -> list[str]:
        """List the overrides that cannot take what vLLM passes them."""
        problems = []
        for ours in self.classes:
            for name, statement in ours.members.items():
                # A constructor may differ, because nobody but us makes our objects.
                if isinstance(statement, Function) and name != "__init__":
                    keys = [f"{module}:{base}.{name}" for module, base in ours.bases]
                    problems += [
                        f"{ours.file.at(statement)}: {ours.node.name}.{name} {problem}"
                        for entry in (names.get(key, {}) for key in keys)
                        if "parameters" in entry
                        for problem in misfits(parameters(statement), entry["parameters"])
                    ]
        return problems

    def _uses(self, modules: set[str], members: Members) -> list[Use]:
        return [*self._imports(), *self._attributes(modules), *self._inherited(members)]

    def _imports(self) -> Iterator[Use]:
        """Yield every name imported from vLLM."""
        for file in self._files.values():
            for node in ast.walk(file.tree):
                for alias, target in _imports(node, ""):
                    if is_vllm(target[0]):
                        assert isinstance(node, ast.stmt)
                        yield Use(file.at(node), (target,), _how(file, alias))

    def _attributes(self, modules: set[str]) -> Iterator[Use]:
        """Yield every attribute taken of an imported module or class of vLLM's."""
        for file in self._files.values():
            called = _called(file.tree)
            for node, owner, name in _attribute_nodes(file.tree):
                if not isinstance(owner, ast.Name):
                    continue
                targets = [
                    target
                    for found in self._targets(file, owner.id)
                    # The members of triton and tl are Triton's, not vLLM's.
                    if found[0] != "vllm.triton_utils"
                    and (target := _attribute(found, name, modules)) is not None
                ]
                if targets:
                    how = "called" if node in called else "read"
                    yield Use(file.at(node), tuple(targets), how)

    def _inherited(self, members: Members) -> Iterator[Use]:
        """Yield every member of a vLLM class that a class of ours overrides or reaches for."""
        for ours in self.classes:
            yield Use(ours.file.at(ours.node), (ours.bases[0],), "subclassed")
            for name, statement in ours.members.items():
                if targets := ours.inherited(name, members):
                    yield Use(ours.file.at(statement), targets, "overridden")
            called = _called(ours.node)
            for node, owner, name in _attribute_nodes(ours.node):
                if name in ours.members or not _is_own(owner, ours.node.name):
                    continue
                if targets := ours.inherited(name, members):
                    how = "called" if node in called else "read"
                    yield Use(ours.file.at(node), targets, how)

    def _classes(self, file: OurFile) -> Iterator[OurClass]:
        for node in file.classes.values():
            if bases := self._bases(file, node):
                yield OurClass(file, node, bases, _own_members(node))

    def _bases(self, file: OurFile, node: ast.ClassDef) -> list[Target]:
        found: list[Target] = []
        for base in node.bases:
            name = ast.unparse(base).partition("[")[0]
            found += self._targets(file, name)
            if (ours := self._our_class(file, name)) is not None:
                found += self._bases(*ours)
        return found

    def _our_class(self, file: OurFile, name: str) -> tuple[OurFile, ast.ClassDef] | None:
        if name in file.classes:
            return file, file.classes[name]
        for module, theirs in file.aliases.get(name, []):
            if module in self._files:
                return self._our_class(self._files[module], theirs)
        return None

    def _targets(self, file: OurFile, name: str) -> list[Target]:
        """Return what a name stands for in vLLM, also where it comes through our own modules."""
        found: list[Target] = []
        for module, theirs in file.aliases.get(name, []):
            if is_vllm(module):
                found.append((module, theirs))
            elif module in self._files:
                found += self._targets(self._files[module], theirs)
        return found


def is_vllm(module: str) -> bool:
    return module.partition(".")[0] == "vllm"


def misfits(ours: Sequence[str], upstream: Sequence[str]) -> list[str]:
    """Say why a method with our parameters cannot stand for one with upstream's."""
    mine, theirs = _Parameters.parse(ours), _Parameters.parse(upstream)
    problems = []
    for position, name in enumerate(theirs.positional):
        if position < len(mine.positional):
            if mine.positional[position] != name:
                problems.append(f"takes {mine.positional[position]} where vLLM passes {name}")
        elif not (mine.takes_more and mine.takes_words):
            problems.append(f"does not take {name}")
    for name in theirs.words:
        if name not in mine.positional and name not in mine.words and not mine.takes_words:
            problems.append(f"does not take {name}")
    known = {*theirs.positional, *theirs.words}
    unknown = sorted(mine.required - known)
    return problems + [f"needs {name}, which vLLM does not pass" for name in unknown]


@dataclass(frozen=True)
class _Parameters:
    """A record's list of parameters, sorted by how each is passed."""

    positional: list[str]
    words: list[str]
    required: set[str]
    takes_more: bool
    takes_words: bool

    @classmethod
    def parse(cls, items: Sequence[str]) -> _Parameters:
        positional: list[str] = []
        words: list[str] = []
        required = set()
        stars = False
        for item in items:
            name, has_default, _ = item.partition("=")
            if name.startswith("*"):
                stars = True
            elif name != "/":
                (words if stars else positional).append(name)
                if not has_default:
                    required.add(name)
        takes_more = any(item[:1] == "*" and item[1:2] not in ("", "*") for item in items)
        return cls(positional, words, required, takes_more, any(i[:2] == "**" for i in items))


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, Target]]:
    """Yield the local names of an import statement, and what they stand for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname:
                yield alias.asname, (alias.name, "")
            else:
                yield alias.name.partition(".")[0], (alias.name, "")
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1]
            module = ".".join([*base, *filter(None, [module])])
        for alias in node.names:
            yield alias.asname or alias.name, (module, alias.name)


def _renamings(nodes: Sequence[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield x and y of every plain `x = y`."""
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Name):
            for target in assigned(node):
                if isinstance(target, ast.Name):
                    yield target.id, node.value.id


def _attribute(target: Target, name: str, modules: set[str]) -> Target | None:
    """Return what `x.name` is where x is `target`; None where it is pydantic's or Python's."""
    dotted = ".".join(filter(None, target))
    if not target[1] or dotted in modules:
        return dotted, name
    if name.startswith(("__", _PYDANTIC)):
        return None
    return target[0], f"{target[1]}.{name}"


def _attribute_nodes(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr, str]]:
    """Yield every `x.name`, `getattr(x, "name")` and `hasattr(x, "name")`, as node, x and name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node, node.value, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            owner, name, *_ = node.args
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node, owner, name.value


def _called(tree: ast.AST) -> set[ast.expr]:
    """Return the expressions that stand before the parentheses of a call."""
    return {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}


def _is_own(owner: ast.expr, class_name: str) -> bool:
    """Say whether an expression is the instance, its class, or what it inherits."""
    return ast.unparse(owner) in ("self", "cls", "super()", class_name)


def _own_members(node: ast.ClassDef) -> dict[str, ast.stmt]:
    members: dict[str, ast.stmt] = {}
    for statement in statements(node.body):
        if isinstance(statement, ast.ClassDef | Function):
            members.setdefault(statement.name, statement)
        for target in assigned(statement):
            if isinstance(target, ast.Name):
                members.setdefault(target.id, statement)
    return members


def _how(file: OurFile, alias: str) -> str:
    """Guess how a name is used, for the line that surface.toml lacks."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ClassDef) and alias in map(ast.unparse, node.bases):
            return "subclassed"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == alias:
            return "called"
    return "imported"
