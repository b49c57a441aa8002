"""Chats through a tokenizer's template."""

from __future__ import annotations

from typing import Any

import pytest

from conf_server.backends.base import Chat, Turn
from conf_server.backends.template_rendering import rendered_chat, turns
from conf_server.refusal import RefusalError
from tests.reference import Reference

TEMPLATE = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}{{ mood }}"


def chat(*contents: Any, **fields: Any) -> Chat:
    return Chat(tuple({"role": "user", "content": content} for content in contents), **fields)


def test_the_prompt_is_the_templates(reference: Reference) -> None:
    asked = chat("Hi", template=TEMPLATE, template_kwargs={"mood": "glad"})
    ids = rendered_chat(reference.tokenizer, asked, "")
    assert reference.tokenizer.decode(ids) == "user=Hi;glad"


def test_parts_of_text_are_lines(reference: Reference) -> None:
    parts = chat([{"type": "text", "text": "One"}, {"type": "text", "text": "two"}])
    assert rendered_chat(reference.tokenizer, parts, "") == rendered_chat(
        reference.tokenizer, chat("One\ntwo"), ""
    )
    assert turns(parts, "") == (Turn("user", "One\ntwo"),)


def test_an_answer_begins_or_the_last_message_goes_on(reference: Reference) -> None:
    tokenizer = reference.tokenizer
    begun = tokenizer.decode(rendered_chat(tokenizer, chat("Hi"), ""))
    assert begun.endswith("<|im_start|>assistant\n")
    closed = rendered_chat(tokenizer, chat("Hi", add_generation_prompt=False), "")
    assert begun == tokenizer.decode(closed) + "<|im_start|>assistant\n"
    going_on = rendered_chat(tokenizer, chat("Hi", continue_final_message=True), "")
    assert tokenizer.decode(going_on).endswith("Hi")


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0"),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": ["b", 3]}],
            "messages.1.content.1",
        ),
        ([{"role": "user", "content": 3}], "messages.0.content"),
        ([{"content": "a"}], "messages.0.role"),
        (["a"], "messages.0"),
        ([], "messages"),
    ],
)
def test_what_is_no_text_is_refused(reference: Reference, messages: list[Any], field: str) -> None:
    with pytest.raises(RefusalError) as refused:
        rendered_chat(reference.tokenizer, Chat(tuple(messages)), "items.2.")
    assert refused.value.field == f"items.2.{field}"


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}"])
def test_a_template_that_fails_is_the_clients_error(reference: Reference, template: str) -> None:
    with pytest.raises(RefusalError, match="chat template"):
        rendered_chat(reference.tokenizer, chat("Hi", template=template), "")
