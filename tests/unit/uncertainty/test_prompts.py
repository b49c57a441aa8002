"""Prompts: what they show, and what their readers look for."""

from __future__ import annotations

import math

from conf_server.uncertainty import prompts
from conf_server.uncertainty.parsing import parse_probability


def test_label_prompts_show_everything_and_end_before_the_label() -> None:
    asked = [
        prompts.p_true("why {x}?", "be%cause"),
        prompts.p_true_sampling("why {x}?", "be%cause", ["so", "thus"]),
        prompts.self_nli("be%cause", "so", "why {x}?"),
    ]
    for prompt in asked:
        assert "why {x}?" in prompt.text
        assert "be%cause" in prompt.text
        assert prompt.text.endswith(":")
        assert all(label.startswith(" ") for label in prompt.labels)
        assert len({label[:2] for label in prompt.labels}) == len(prompt.labels)
    assert "thus" in asked[1].text
    assert "question" not in prompts.self_nli("a", "b").text.lower()


def test_the_confidence_prompts_say_what_their_readers_look_for() -> None:
    for text in (prompts.verbalized_1s("why?"), prompts.verbalized_2s()):
        assert "Probability:" in text
        # The prompt's own text, echoed, is no probability.
        assert parse_probability(text) is None
    assert all(name in prompts.linguistic_1s("why?") for name in prompts.EXPRESSIONS)
    assert all(0 < value < 1 and math.isfinite(value) for value in prompts.EXPRESSIONS.values())
