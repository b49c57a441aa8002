"""Pairs become groups of one context, and the answers find their way back."""

from __future__ import annotations

import pytest

from conf_server.integrations.context_groups import (
    MOST_CONTINUATIONS,
    MOST_TOKENS,
    ContextGroup,
    context_groups,
)


def test_pairs_of_one_context_are_one_group_and_equal_pairs_are_one() -> None:
    pairs = [([1, 2], [3]), ([1], [2, 3]), ([1, 2], [4, 5]), ([1, 2], [3])]
    assert list(context_groups(pairs, 10)) == [
        ContextGroup((1, 2), ((3,), (4, 5)), ((0, 3), (2,))),
        ContextGroup((1,), ((2, 3),), ((1,),)),
    ]


def test_a_context_that_is_too_long_loses_its_first_tokens() -> None:
    """The last token is predicted and not read: texts may have one more than `max_length`."""
    context = [1, 2, 3, 4]
    groups = list(context_groups([(context, [5, 6]), (context, [5, 6, 7]), (context, [5])], 5))
    assert [group.context for group in groups] == [(1, 2, 3, 4), (2, 3, 4)]
    assert [group.places for group in groups] == [((0,), (2,)), ((1,),)]


def test_a_group_is_no_endless_request() -> None:
    many = [([1], [n]) for n in range(2 * MOST_CONTINUATIONS + 1)]
    sizes = [len(group.continuations) for group in context_groups(many, 10)]
    assert sizes == [MOST_CONTINUATIONS, MOST_CONTINUATIONS, 1]

    long = [([1], [n] * (MOST_TOKENS // 2)) for n in range(3)] + [([1], [3] * (2 * MOST_TOKENS))]
    groups = list(context_groups(long, 10 * MOST_TOKENS))
    assert [group.places for group in groups] == [((0,), (1,)), ((2,),), ((3,),)]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1]), "context has no tokens"),
        (([1], []), "continuation has no tokens"),
        (([1], [2] * 6), "6 tokens, more than the 5 of max_length"),
    ],
)
def test_what_cannot_be_scored_is_refused(pair: tuple[list[int], list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=f"pair 1: .*{message}"):
        list(context_groups([([1], [2]), pair], 5))
