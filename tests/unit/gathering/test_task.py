"""What is refused before any work is done."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.backends.base import Completion, Limits, Plain
from conf_server.backends.dummy import DummyBackend
from conf_server.refusal import RefusalError
from conf_server.settings import ConfidenceSettings
from tests.unit.gathering.inquiries import inquire

SMALL = ConfidenceSettings(max_uncertainty_samples=3, max_uncertainty_tokens=20)
SAMPLED = ["lexical_similarity_rouge1"]


def dummy(**limits: Any) -> DummyBackend:
    known = {"max_len": 64, "vocab_size": 1000, "candidates": 20, "has_chat_template": True}
    return DummyBackend(lambda prompt, number: "It is Paris.", Limits(**(known | limits)))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"n_samples": 4}, "uncertainty.n_samples"),
        ({"answer": Completion("a"), "samples": [Completion("b")] * 4}, "samples"),
        ({"answer": Completion("a " * 20)}, "answer"),
        ({"answer": Completion("a"), "samples": [Completion("b " * 20)]}, "samples"),
        ({"max_tokens": 7}, "max_tokens"),
        ({"prompt": Plain((1000,))}, "prompt"),
        (
            {
                "prompt": Plain("Hi"),
                "answer": Completion("a"),
                "options": {"truncate_prompt_tokens": 1},
            },
            "truncate_prompt_tokens",
        ),
    ],
)
async def test_too_much_is_refused_by_its_field(asked: dict[str, Any], field: str) -> None:
    backend = dummy()
    with pytest.raises(RefusalError) as refused:
        await inquire(backend, SAMPLED, settings=SMALL, **asked)
    assert refused.value.field == field
    assert not [how for how, *_ in backend.asked if how != "check"]


async def test_answers_share_what_the_server_allows() -> None:
    backend = dummy()
    await inquire(backend, SAMPLED, settings=SMALL)
    lengths = [ask.max_tokens for how, _, ask in backend.asked if how == "generate"]
    assert lengths == [6, 6]  # 20 tokens for an answer and two samples


async def test_a_chat_without_a_length_has_all_the_room() -> None:
    backend = dummy()
    await inquire(backend, SAMPLED)
    assert [ask.max_tokens for how, _, ask in backend.asked if how == "generate"] == [None, None]


async def test_an_answer_is_refused_where_nothing_can_be_forced() -> None:
    with pytest.raises(RefusalError, match="no tokenizer") as refused:
        await inquire(dummy(forcing="no tokenizer"), ["perplexity"], answer=Completion("a"))
    assert refused.value.field == "answer"


async def test_a_stream_is_checked_before_it_begins() -> None:
    backend = dummy()
    await inquire(backend, ["perplexity"], check=True, max_tokens=5)
    (how, _, ask), *_ = backend.asked
    assert (how, ask.max_tokens) == ("check", 5)
