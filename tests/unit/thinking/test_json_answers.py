"""`extract: json`: the last object that has the key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.refusal import RefusalError
from conf_server.thinking.json_answers import MOST_IN_VAIN, json_finder

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('```json\n{"answer": "70"}\n```', "70"),
        ('{"answer": 1} then {"answer": 2}', "2"),
        (r'{"answer": 1} and $\{\}$, {}, {"b": 2}', "1"),
        ('{"b": {"answer": 1}}', None),
        ('{"b": {"answer": 1}', "1"),
        ('{"answer": {"b": 1, "a": [1.50, true]}}', '{"a":[1.5,true],"b":1}'),
        ('{"answer": "\\ud83d\\ude00"}', "😀"),
        ('{"answer": 1} {"answer": null}', None),
        ('{"answer": NaN}', None),
        ('{"answer": 1e999}', None),
        ('{"answer": ' + "9" * 5000 + "}", None),
        ("{'answer': 1}", None),
        ("", None),
    ],
)
def test_the_last_object_with_the_key(text: str, answer: str | None) -> None:
    assert json_finder("answer")(text, 0) == answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [("/a/1/b~1c", "1"), ("/a/0", "0"), ("/", "e"), ("a/b", "2"), ("/~0", "3"), ("/a/01", None)],
)
def test_a_pointer(key: str, answer: str | None) -> None:
    text = '{"a": [0, {"b/c": 1}], "": "e", "a/b": 2, "~": 3}'
    assert json_finder(key)(text, 0) == answer


@given(value=VALUES)
def test_equal_values_are_the_same_answer(value: object) -> None:
    spread = json.dumps({"answer": value}, indent=3)
    dense = json.dumps({"answer": value}, ensure_ascii=False, separators=(",", ":"))
    find = json_finder("answer")
    assert find(f"So {spread}.", 0) == find(dense, 0)


def test_text_that_is_made_to_be_read_again_is_given_up() -> None:
    """Each of the open braces is the beginning of all that follows it, which never ends."""
    hostile = '{"a":' * 500 + "[" + "{}," * 10_000
    assert len(hostile) * 500 > MOST_IN_VAIN
    assert json_finder("answer")(hostile + ' then {"answer": 1}', 0) is None
    assert json_finder("answer")('{"a":' * 5 + ' then {"answer": 1}', 0) == "1"


@pytest.mark.parametrize("key", ["", "a" * 201, "/a~2"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(RefusalError) as refused:
        json_finder(key)
    assert refused.value.field == "think.answer.key"
