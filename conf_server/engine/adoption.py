"""Objects that vLLM's own code has built, continued as objects of our subclasses."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def adopt(kind: type[T], stock: Any) -> T:
    """The same object with the methods of `kind` before those of its own class.

    vLLM builds it, because its constructors' arguments change with every release. Both
    objects share one state, so whoever still holds the old one is not left behind.

    Args:
        kind: a subclass of the stock object's class, or of one of that class's bases.
    """
    if not issubclass(kind, type(stock)):
        kind = type(kind.__name__, (kind, type(stock)), {})
    adopted = kind.__new__(kind)
    adopted.__dict__ = stock.__dict__
    return adopted


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
