"""What a backend of transformers says of itself, reads of a prompt, and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conf_server.backends.base import (
    Ask,
    Caller,
    Chat,
    Completion,
    ForcingItem,
    Plain,
    Turn,
)
from conf_server.backends.streaming import StreamingBackend
from conf_server.backends.transformers import TransformersBackend
from conf_server.backends.transformers_forward import ForwardPasses
from conf_server.backends.transformers_model import LoadedModel
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.refusal import RefusalError, TooLongError
from conf_server.stats.forced import WantedRows
from tests.reference import Reference

CALLER = Caller("request")
ROWS = WantedRows(1, 0, statistics=True)


def test_it_says_what_it_can_do(backend: TransformersBackend) -> None:
    as_backend: StreamingBackend = backend
    limits = as_backend.limits()
    assert (limits.max_len, limits.vocab_size, limits.candidates) == (512, 49152, 20)
    assert limits.has_chat_template
    assert (limits.statistics, limits.forcing, limits.states) == (None, None, None)
    assert (limits.num_layers, limits.hidden_size, limits.num_heads) == (30, 576, 9)
    assert limits.attention == (None,) * 30
    assert not limits.adapters


def test_every_token_can_be_named_if_that_is_allowed(
    loaded: LoadedModel, passes: ForwardPasses, options: TransformersOptions
) -> None:
    backend = TransformersBackend(loaded, passes, replace(options, max_logprobs=-1))
    assert backend.limits().candidates == 49152


async def test_a_prompt_is_read_as_it_will_be_answered(
    backend: TransformersBackend, reference: Reference
) -> None:
    plain = await backend.check(Ask(Plain("Hello there")), CALLER)
    assert plain.token_ids == reference.tokenizer.encode("Hello there")
    assert (await backend.check(Ask(Plain((5, 6))), CALLER)).token_ids == [5, 6]
    messages = ({"role": "user", "content": [{"type": "text", "text": "Hi"}]},)
    chat = await backend.check(Ask(Chat(messages)), CALLER)
    assert chat.turns == (Turn("user", "Hi"),)
    assert reference.tokenizer.decode(chat.token_ids).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (Ask(Plain("")), "prompt"),
        (Ask(Plain((5, 49152))), "prompt"),
        (Ask(Plain((5, -1))), "prompt"),
        (Ask(Plain("A"), n=0), "n"),
        (Ask(Plain("A"), temperature=-1), "temperature"),
        (Ask(Plain("A"), options={"top_p": 2}), "top_p"),
        (Ask(Plain("A"), options={"guided_regex": "a"}), "guided_regex"),
        (Ask(Chat(({"role": "user", "content": [{"type": "audio"}]},))), "messages.0.content.0"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_any_work(
    backend: TransformersBackend, ask: Ask, field: str
) -> None:
    for asked in (
        backend.check(ask, CALLER),
        backend.generate(ask, ROWS, CALLER),
        anext(backend.stream(ask, ROWS, CALLER)),
    ):
        with pytest.raises(RefusalError) as refused:
            await asked
        assert refused.value.field == field


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (Ask(Plain((5,) * 512)), "prompt"),
        (Ask(Plain("a" * 1_000_000)), "prompt"),
        (Ask(Chat(({"role": "user", "content": "word " * 600},))), "messages"),
        (Ask(Plain((5,) * 500), max_tokens=513), "max_tokens"),
    ],
)
async def test_what_does_not_fit_is_too_long(
    backend: TransformersBackend, ask: Ask, field: str
) -> None:
    with pytest.raises(TooLongError) as refused:
        await backend.check(ask, CALLER)
    assert refused.value.field == field


async def test_a_finished_completion_ends_as_the_context_would(
    backend: TransformersBackend,
) -> None:
    chat = Chat(({"role": "user", "content": "Hi"},))
    finished = (Completion("Hello", finished=True),)
    items = [ForcingItem(prompt, finished, "", ("a",)) for prompt in (chat, Plain("Hi"))]
    for job in await backend.prepare(items):
        assert job.text.token_ids[-1] == backend.tokenizer.eos_token_id


async def test_a_text_in_a_chat_that_is_none_is_refused_by_its_field(
    backend: TransformersBackend,
) -> None:
    chat = Chat(({"role": "user", "content": 5},))
    item = ForcingItem(chat, (Completion("a"),), "items.4.", ("items.4.completions.0",))
    with pytest.raises(RefusalError) as refused:
        await backend.prepare([item])
    assert refused.value.field == "items.4.messages.0.content"


def test_tokens_and_their_texts(backend: TransformersBackend) -> None:
    ids: Any = backend.tokenizer.encode("Zürich 😀")
    assert "".join(text for (text,) in backend.decode([[i] for i in ids])) == "Zürich 😀"
    assert backend.decode([ids[-1:]], ids[:-1]) == [[" 😀"]]
    end = backend.tokenizer.eos_token_id
    assert backend.text_of([*ids, end]) == "Zürich 😀"
    assert backend.is_special(end)
    assert not backend.is_special(ids[0])
