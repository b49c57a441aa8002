"""Every method by name: those of this package, and those that others add.

Another package adds a method by calling `register`, or by naming it in its entry points:

    [project.entry-points."conf_server.methods"]
    my_method = "my_package:MY_METHOD"

Servers and `conf-server report` load the entry points once, when they start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

from conf_server.uncertainty.catalogue import CATALOGUE
from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.method import Method
from conf_server.uncertainty.needs import Need

__all__ = [
    "GROUPS",
    "METHODS",
    "Estimate",
    "Method",
    "MethodError",
    "load_entry_points",
    "register",
    "resolve",
]

ENTRY_POINTS: Final = "conf_server.methods"
"""The group of entry points that name methods of other packages."""

_OWN_TOKENS: Final = frozenset({Need.ANSWER_LOGPROBS, Need.ANSWER_STATISTICS})
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

_methods: dict[str, Method] = {}
_groups: dict[str, tuple[str, ...]] = {"fast": (), "all": ()}

METHODS: Final[Mapping[str, Method]] = MappingProxyType(_methods)
"""Every registered method by name."""
GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(_groups)
"""Names that stand for several methods: `fast` for those that need nothing but the answer's own
tokens, `all` for every one, and the families."""


class MethodError(ValueError):
    """A method that cannot be registered. The message says which one and why."""


def register(method: Method) -> None:
    """Add a method under its name, in the groups that it belongs to.

    Raises:
        MethodError: the name is taken or is no name, the family's name is taken by a method,
            the needs are no set of `Need`, or the description has several lines.
    """
    if not _NAME.fullmatch(method.name):
        raise MethodError(f"method {method.name!r}: a name is letters, digits and underscores")
    if method.name in _methods or method.name in _groups:
        raise MethodError(f"method {method.name!r}: the name is taken")
    if method.family in _methods:
        raise MethodError(f"method {method.name!r}: its family {method.family!r} is a method")
    if not all(isinstance(need, Need) for need in method.needs):
        raise MethodError(f"method {method.name!r}: its needs must be members of Need")
    if "\n" in method.description:
        raise MethodError(f"method {method.name!r}: its description must be one line")
    _methods[method.name] = method
    groups = ["all", method.family, "fast" if method.needs <= _OWN_TOKENS else None]
    for group in filter(None, groups):
        _groups[group] = (*_groups.get(group, ()), method.name)


@cache
def load_entry_points() -> None:
    """Register the methods that installed packages name in their entry points, once a process.

    An entry point is a `Method`.

    Raises:
        MethodError: one of them cannot be imported, is no `Method`, or cannot be registered.
    """
    for point in entry_points(group=ENTRY_POINTS):
        register(_loaded(point))


def _loaded(point: EntryPoint) -> Method:
    where = f"entry point {point.name!r} = {point.value!r} of {ENTRY_POINTS}"
    try:
        method = point.load()
    except Exception as error:  # whatever another package's import raises
        raise MethodError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(method, Method):
        raise MethodError(f"{where}: it is of type {type(method).__name__}, not Method")
    return method


def resolve(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name or group, each once, in the order asked for.

    Raises:
        KeyError: holding the first name that is neither.
    """
    asked = [name for given in names for name in GROUPS.get(given, (given,))]
    return tuple(METHODS[name] for name in dict.fromkeys(asked))


for _method in CATALOGUE:
    register(_method)
