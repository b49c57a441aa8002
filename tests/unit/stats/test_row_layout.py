"""Which column is what: every request finds its own columns in rows that others have widened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conf_server.stats import row_layout
from conf_server.stats.row_layout import (
    GROUP_WIDTHS,
    ColumnGroup,
    EngineRows,
    RowLayout,
    joined,
)

STATISTICS = (ColumnGroup.STATISTICS,)
LIBRARIES = {"numpy": (np.array, np.concatenate), "torch": (torch.tensor, torch.cat)}

libraries = pytest.mark.parametrize("library", LIBRARIES)


def rows(library: str, candidates: int, groups: tuple[ColumnGroup, ...], n: int = 3) -> EngineRows:
    """Rows of which every cell says whose it is: its column, or minus its place in the group."""
    array, concatenate = LIBRARIES[library]
    named = array([[float(column) for column in range(1 + candidates)]] * n)
    parts = {group: array([[-1.0 - i for i in range(GROUP_WIDTHS[group])]] * n) for group in groups}
    ids: Any = array([list(range(1 + candidates))] * n)
    return EngineRows(ids, joined(named, parts, concatenate), array(list(range(n))))


@libraries
@given(
    own=st.integers(0, 4),
    others=st.integers(0, 4),
    wanted=st.sampled_from([(), STATISTICS]),
    carried=st.sampled_from([(), STATISTICS]),
)
def test_a_request_finds_its_own_columns_or_none(
    library: str,
    own: int,
    others: int,
    wanted: tuple[ColumnGroup, ...],
    carried: tuple[ColumnGroup, ...],
) -> None:
    layout, given = RowLayout(own, wanted), rows(library, others, carried)
    concatenate = LIBRARIES[library][1]
    fits = others >= own and set(wanted) <= set(carried)
    assert layout.fits(given) == fits
    if not fits:
        assert layout.narrowed(given, concatenate) is None
        return
    alone = rows(library, own, wanted)
    narrowed = layout.narrowed(given, concatenate)
    assert narrowed is not None
    assert [part.tolist() for part in narrowed] == [part.tolist() for part in alone]
    assert (narrowed.ids.shape[1], narrowed.logprobs.shape[1]) == (layout.named, layout.width)


@libraries
def test_split_is_the_inverse_of_joined(library: str) -> None:
    layout, given = RowLayout(2, STATISTICS), rows(library, 2, STATISTICS)
    named, groups = layout.split(given.logprobs)
    assert named.tolist() == [[0, 1, 2]] * 3
    assert list(groups) == [ColumnGroup.STATISTICS]
    again = joined(named, groups, LIBRARIES[library][1])
    assert again.tolist() == given.logprobs.tolist()


def test_own_columns_are_not_copied_where_they_stand_side_by_side() -> None:
    given = rows("numpy", 4, STATISTICS)
    for layout in (RowLayout(4, STATISTICS), RowLayout(2)):
        narrowed = layout.narrowed(given, np.concatenate)
        assert narrowed is not None
        assert np.shares_memory(narrowed.logprobs, given.logprobs)
        assert np.shares_memory(narrowed.ids, given.ids)


def test_the_number_of_columns_tells_which_groups_rows_carry() -> None:
    assert set(GROUP_WIDTHS) == set(ColumnGroup)
    assert len(row_layout._CARRIED) == 2 ** len(ColumnGroup)


def test_a_row_has_no_negative_width() -> None:
    with pytest.raises(ValueError, match="width must not be negative"):
        RowLayout(-1)
