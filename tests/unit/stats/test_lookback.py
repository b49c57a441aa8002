"""Lookback ratios against their definition, term by term."""

from __future__ import annotations

import numpy as np
import pytest

from conf_server.stats.lookback import lookback_ratios


def test_the_ratio_is_of_mean_weights() -> None:
    """A context of 4 tokens, and an answer of 3 in one layer with two heads."""
    rng = np.random.default_rng(0)
    weights = rng.random((1, 2, 3, 7))  # layers, heads, tokens of the answer, tokens that they see
    weights *= np.arange(7) <= 4 + np.arange(3)[:, None]
    weights /= weights.sum(-1, keepdims=True)
    expected = np.zeros((1, 2))
    for head in range(2):
        for token in range(3):
            row = weights[0, head, token]
            context, new = row[:4].mean(), row[4 : 5 + token].mean()
            expected[0, head] += context / (context + new) / 3
    mass = weights[..., :4].sum(-1).transpose(0, 2, 1)
    np.testing.assert_allclose(lookback_ratios(mass, 4), expected, rtol=1e-12)


@pytest.mark.parametrize(("mass", "ratio"), [(0.0, 0.0), (1.0, 1.0), (0.75, 0.5)])
def test_a_head_that_looks_at_all_tokens_alike_has_a_ratio_of_a_half(
    mass: float, ratio: float
) -> None:
    assert lookback_ratios(np.full((1, 1, 1), mass), 3) == pytest.approx(ratio)
