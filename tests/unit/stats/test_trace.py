"""TokenTrace: rows in, the same rows out."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.row_layout import ColumnGroup
from conf_server.stats.trace import TokenTrace, TraceRows

Arrays = tuple[NDArray, NDArray, NDArray]

COLUMNS = ("token_ids", "logprobs", "ranks", "candidate_ids", "candidate_logprobs")


def engine_rows(n: int, columns: int, first: int = 0) -> Arrays:
    """Rows as the engine yields them, no two cells alike."""
    cells = np.arange(first * columns, (first + n) * columns).reshape(n, columns)
    ids, logprobs = cells.astype(np.int32), (-cells / 8).astype(np.float32)
    return ids, logprobs, np.arange(first + 1, first + n + 1)


def trace_of(n: int, width: int = 3) -> TokenTrace:
    trace = TokenTrace(width)
    trace.append(*engine_rows(n, width + 1))
    return trace


def as_lists(rows: TraceRows) -> dict[str, list]:
    return {name: getattr(rows, name).tolist() for name in COLUMNS}


def expected(ids: NDArray, logprobs: NDArray, ranks: NDArray) -> dict[str, list]:
    columns = ids[:, 0], logprobs[:, 0], ranks, ids[:, 1:], logprobs[:, 1:]
    return {name: column.tolist() for name, column in zip(COLUMNS, columns, strict=True)}


@given(
    width=st.integers(0, 5),
    extra=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 200), max_size=8).map(sorted),
)
def test_chunks_add_up_and_extra_columns_are_dropped(
    width: int, extra: int, cuts: list[int]
) -> None:
    ids, logprobs, ranks = engine_rows(200, width + 1 + extra)
    trace = TokenTrace(width)
    for start, stop in pairwise([0, *cuts, 200]):
        trace.append(ids[start:stop], logprobs[start:stop], ranks[start:stop])
        assert len(trace) == len(trace.all()) == stop
    own = slice(0, width + 1)
    assert as_lists(trace.all()) == expected(ids[:, own], logprobs[:, own], ranks)


def test_types_are_the_engines() -> None:
    rows = trace_of(2).all()
    types = {name: getattr(rows, name).dtype for name in COLUMNS}
    assert types == {
        "token_ids": np.int32,
        "logprobs": np.float32,
        "ranks": np.int32,
        "candidate_ids": np.int32,
        "candidate_logprobs": np.float32,
    }


def test_too_narrow_rows_are_refused_and_leave_no_trace() -> None:
    trace = trace_of(2, width=3)
    before = as_lists(trace.all())
    for columns in (1, 3):
        with pytest.raises(
            ValueError, match=f"rows of {columns} ids and {columns} numbers, expected 4"
        ):
            trace.append(*engine_rows(1, columns))
    assert as_lists(trace.all()) == before


@pytest.mark.parametrize(
    ("logprobs", "ranks"),
    [((2, 1), 2), ((1, 4), 2), ((2, 4), 1), ((2, 4), 3)],
    ids=["narrow logprobs", "one logprobs row", "one rank", "three ranks"],
)
def test_arrays_of_different_shapes_are_refused(logprobs: tuple[int, int], ranks: int) -> None:
    """Where numpy would repeat the one value it has."""
    ids = engine_rows(2, 4)[0]
    with pytest.raises(ValueError, match=r"rows|shape"):
        TokenTrace(3).append(ids, engine_rows(*logprobs)[1], engine_rows(ranks, 4)[2])


def test_a_trace_goes_on_with_the_rows_of_another() -> None:
    whole, joined = trace_of(5), trace_of(2)
    joined.extend(whole.rows(2, 5))
    assert as_lists(joined.all()) == as_lists(whole.all())


def test_statistics_of_another_trace_come_along() -> None:
    groups = (ColumnGroup.STATISTICS,)
    one, other = TokenTrace(0, groups), TokenTrace(0, groups)
    numbers = np.arange(1 + NUM_TOKEN_STATISTICS, dtype=np.float32)[None]
    one.append(np.array([[7]], np.int32), numbers, np.array([1], np.int32))
    other.extend(one.all())
    assert np.array_equal(other.all().statistics, one.all().statistics)


def test_rows_are_views() -> None:
    trace = trace_of(5)
    part, whole = trace.rows(1, 4), trace.all()
    for name in COLUMNS:
        assert np.shares_memory(getattr(part, name), getattr(whole, name))


def test_views_outlive_growth() -> None:
    trace = trace_of(5)
    early = trace.all()
    before = as_lists(early)
    trace.append(*engine_rows(1000, 4, first=5))
    assert as_lists(early) == before
    assert as_lists(trace.rows(0, 5)) == before


@given(st.integers(-80, 80), st.integers(-80, 80))
def test_bounds_are_clamped_to_the_tokens_there_are(start: int, stop: int) -> None:
    """Never a row that was not appended, however much memory lies behind the last."""
    trace = trace_of(30)
    got = trace.rows(start, stop)
    tokens = range(30)[max(start, 0) : max(stop, 0)]
    assert len(got) == len(tokens)
    assert got.ranks.tolist() == [t + 1 for t in tokens]
