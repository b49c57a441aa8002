"""Turning objects that vLLM has built into objects of our subclasses."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def adopt(kind: type[T], stock: Any) -> T:
    """An object of `kind` with the state of `stock`.

    vLLM builds the stock object, because the arguments of its constructors change with every
    release. Both objects share one `__dict__`, so that code which still holds the old one sees
    what happens to the new one.

    Args:
        kind: a subclass of the stock object's class, or of one of that class's bases. In the
            second case the object gets a new class, which inherits from `kind` first and then
            from the stock object's class.
        stock: the object; it must not be of a class with `__slots__`.
    """
    if not issubclass(kind, type(stock)):
        bases: tuple[Any, Any] = kind, type(stock)
        kind = _mixed(*bases)
    adopted = kind.__new__(kind)
    adopted.__dict__ = stock.__dict__
    return adopted


@cache  # a class for each object would be left to the garbage collector
def _mixed(kind: Any, base: Any) -> Any:
    return type(kind.__name__, (kind, base), {})


def adopt_copy(kind: type[T], stock: Any) -> T:
    """A new object of `kind`, with the attributes that `stock` has now; `stock` stays as it is.

    The handlers' constructors change with every release of vLLM, and vLLM's own code knows
    their arguments.

    Args:
        kind: a subclass of the stock object's class.
    """
    copy = kind.__new__(kind)
    copy.__dict__.update(stock.__dict__)
    return copy
