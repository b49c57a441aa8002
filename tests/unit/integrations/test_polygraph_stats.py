from __future__ import annotations

from types import SimpleNamespace

import pytest

from conf_server.integrations.polygraph_generation import Generated
from conf_server.integrations.polygraph_stats import greedy_stats, sample_stats

END = 9
TOKENIZER = SimpleNamespace(
    eos_token_id=END, decode=lambda tokens: " ".join(f"w{one}" for one in tokens)
)
ENDED = Generated((3, 4, END), (-1.0, -2.0, -0.5), (0.1, 0.2, 0.3), (((4, -0.5), (3, -1.0)),) * 3)
CUT = Generated((5,), (-0.25,), (0.4,), (((5, -0.25),),))
NOTHING = Generated((END,), (-0.1,), (0.1,), ((),))


def test_the_end_of_an_answer_is_a_token_and_no_text() -> None:
    found = greedy_stats([ENDED, CUT], TOKENIZER)
    assert found["greedy_texts"] == ["w3 w4", "w5"]
    assert found["greedy_tokens"] == [[3, 4, END], [5]]
    assert found["greedy_log_likelihoods"] == [[-1.0, -2.0, -0.5], [-0.25]]
    assert found["entropy"] == [[0.1, 0.2, 0.3], [0.4]]


def test_an_answers_own_token_is_its_first_alternative() -> None:
    first, second, _ = greedy_stats([ENDED], TOKENIZER)["greedy_tokens_alternatives"][0]
    assert first == [(3, -1.0), (4, -0.5)]
    assert second == [(4, -0.5), (3, -1.0)]


def test_the_end_of_a_sample_counts_in_its_sum_alone() -> None:
    found = sample_stats([[ENDED, CUT]], TOKENIZER)
    assert found["sample_log_probs"] == [[pytest.approx(-3.5), -0.25]]
    assert found["sample_log_likelihoods"] == [[[-1.0, -2.0], [-0.25]]]
    assert found["sample_tokens"] == [[[3, 4], [5]]]
    assert found["sample_texts"] == [["w3 w4", "w5"]]


def test_a_sample_without_text_is_left_out() -> None:
    assert sample_stats([[NOTHING, CUT]], TOKENIZER)["sample_tokens"] == [[[5]]]
