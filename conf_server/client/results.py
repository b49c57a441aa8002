"""Lists of results, which become tables where pandas is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import pandas


class HasRow(Protocol):
    """What can be a row of a table."""

    def row(self) -> dict[str, Any]:
        """Values by the names of their columns."""
        ...


Row = TypeVar("Row", bound=HasRow)


class Results(list[Row]):
    """A list of results with a table of them."""

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each result. A number that is not there is NaN.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame([result.row() for result in self])


def frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """A table of rows.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error
    return pandas.DataFrame(rows)


def prefixed(prefix: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values with `prefix.` before their names, as a table's columns."""
    return {f"{prefix}.{name}": value for name, value in (values or {}).items()}
