"""Features of trained heads, on numbers that are easy to follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.heads.features import FeatureRow, ModelShape, UnreadableError
from conf_server.heads.luh_config import Extractor, HeadError
from conf_server.stats.forced import ForcedAttention, ForcedStates, WantedAttention, WantedStates

SHAPE = ModelShape(num_layers=3, num_heads=2, hidden_size=4)
NOTHING = np.empty((0, 0, 0), np.float32)
P, C = 3, 4
"""Tokens of the prompt and of the answer: the rows of positions 2 to 5 are the answer's."""


def features(name: str, **options: Any) -> FeatureRow:
    return FeatureRow([Extractor(name, options)], SHAPE)


def near(layers: int, history: int) -> NDArray[np.float32]:
    """A weight of four digits: layer, position, head, distance."""
    parts = np.ogrid[:layers, : P + C - 1, : SHAPE.num_heads, :history]
    digits = sum(part * 10.0**-power for power, part in enumerate(parts))
    return np.asarray(digits, np.float32)


def candidates() -> NDArray[np.float32]:
    return np.log([[0.5, 0.3, 0.1], [0.6, 0.2, 0.1], [0.7, 0.1, 0.1], [0.9, 0.05, 0.01]]).astype(
        "<f4"
    )


def test_weights_stand_by_distance_then_head_then_layer() -> None:
    row = features("basic_attention", layer_nums=[-1, 0], attn_history_sz=2, pool=False)
    assert row.wanted(False) == WantedStates((), "none", False, WantedAttention((0, 2), 2))
    found = row.rows(P, 0, candidates(), ForcedStates(NOTHING, 0, ForcedAttention(near(2, 2))))
    assert found.shape == (P + C - 1, row.width)
    # Layer 2, the second that the engine gives, is the first that the head names.
    assert found[4] == pytest.approx([1.4, 0.4, 1.41, 0.41, 1.401, 0.401, 1.411, 0.411])


def test_of_pooled_layers_the_largest_weight_counts() -> None:
    options = {"layer_nums": "all", "attn_history_sz": 2, "pool": True, "head_nums": [-1]}
    row = features("basic_attention", **options)
    found = row.rows(P, 0, candidates(), ForcedStates(NOTHING, 0, ForcedAttention(near(3, 2))))
    assert found[4] == pytest.approx([2.41, 2.411])


@pytest.mark.parametrize(
    ("written", "numbers"),
    [("all", (0, 1, 2)), ([-1], (2,)), (-3, (0,)), ([3, -1], (3, 2)), (None, (2,))],
)
def test_layers_are_numbered_as_luh_numbers_them(written: Any, numbers: tuple[int, ...]) -> None:
    row = features("basic_hidden_states", **({} if written is None else {"layer_nums": written}))
    assert row.wanted(True) == WantedStates(tuple(sorted(numbers)), "none", True)
    states = np.arange(4.0)[sorted(numbers)][:, None, None] * np.ones((1, C, 4))
    found = row.rows(P, P - 1, candidates(), ForcedStates(states.astype(np.float32), 0))
    assert found.tolist() == [np.repeat(numbers, 4).tolist()] * C


def test_probabilities_are_those_of_the_answers_tokens_alone() -> None:
    row = features("token_probabilities", top_n=2, temperature=1.0)
    assert (row.top_n, row.reads_layers) == (2, False)
    whole = row.rows(P, 0, candidates(), None)
    assert whole[: P - 1].tolist() == [[0, 0]] * (P - 1)
    assert whole[P - 1 :] == pytest.approx(np.exp(candidates()[:, :2]))
    assert row.rows(P, P - 1, candidates(), None) == pytest.approx(whole[P - 1 :])


def test_fewer_candidates_than_the_head_reads_are_no_feature() -> None:
    with pytest.raises(UnreadableError, match="3 candidates a token, the head reads 4"):
        features("token_probabilities", top_n=4).rows(P, 0, candidates(), None)


def lookback(mass: NDArray[np.float64]) -> NDArray[np.float32]:
    attention = ForcedAttention(near(3, 0), np.broadcast_to(mass[:, None], (3, len(mass), 2)))
    return features("lookback_lens").rows(P, 0, candidates(), ForcedStates(NOTHING, 0, attention))


def test_lookback_ratios_begin_after_the_answers_first_token() -> None:
    found = lookback(np.array([1, 1, 1, 0.9, 0.75, 0.6]))
    assert features("lookback_lens").reads_context
    assert found[:4].tolist() == [[1] * 6] * 4
    assert found[4] == pytest.approx([0.25 / (0.25 + 0.25)] * 6)
    assert found[5] == pytest.approx([0.2 / (0.2 + 0.2)] * 6)


def test_what_goes_to_a_sink_goes_to_no_new_token() -> None:
    with pytest.raises(UnreadableError, match="sinks"):
        lookback(np.array([0.9, 0.8, 0.9, 0.7, 0.6, 0.5]))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("basic_attention", {"layer_nums": [3]}, "layer_nums 3 is beyond .* end at 2"),
        (
            "basic_attention",
            {"layer_nums": [-4]},
            "layer_nums must be a whole number of at least -3",
        ),
        ("basic_attention", {"layer_nums": []}, "layer_nums is empty"),
        ("basic_attention", {"layer_nums": "last"}, "layer_nums must be a whole number"),
        ("basic_attention", {"head_nums": [0, 2]}, "head_nums 2 is beyond .* end at 1"),
        ("basic_attention", {"head_nums": {0: [1]}}, "head_nums differs by layer"),
        ("basic_attention", {"attn_history_sz": 0}, "attn_history_sz must be a whole number"),
        ("basic_attention", {"pool": "no"}, "pool must be true or false"),
        ("basic_hidden_states", {"layer_nums": [4]}, "layer_nums 4 is beyond .* end at 3"),
        ("token_probabilities", {"top_n": True}, "top_n must be a whole number"),
        ("token_probabilities", {"temperature": 0.5}, "temperature 0.5 needs the logits"),
    ],
)
def test_what_the_model_lacks_or_nobody_can_mean_is_refused(
    name: str, options: dict[str, Any], reason: str
) -> None:
    sound: dict[str, Any] = {
        "basic_attention": {"layer_nums": "all", "attn_history_sz": 1, "pool": False},
        "token_probabilities": {"top_n": 4},
    }
    with pytest.raises(HeadError, match=rf"^feature_extractor\.0\.{reason}"):
        features(name, **{**sound.get(name, {}), **options})
