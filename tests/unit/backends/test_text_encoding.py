"""Long texts on their way to tokens: refused before they are encoded, encoded once, and in turn."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from conf_server.backends.base import Completion, ForcingItem, Plain
from conf_server.backends.text_encoding import TURN, TextEncoder
from conf_server.backends.tokenization import ContextEncoder
from conf_server.refusal import TooLongError
from tests.unit.backends.test_forcing import Model

ROOT = Path(__file__).parents[3]


class Counted:
    """A tokenizer that notes what it has encoded; it waits for leave to encode where it has to."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self.encoded: list[str] = []
        self.leave = threading.Event()
        self.leave.set()
        self._tokenizer = tokenizer

    def __call__(self, text: str, **options: Any) -> Any:
        self.encoded.append(text)
        self.leave.wait()
        return self._tokenizer(text, **options)

    def encode(self, text: str, **options: Any) -> Any:
        return self(text, **options)["input_ids"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.fixture(scope="module")
def bpe(model_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_path)


def model(max_len: int = 64) -> Any:
    made: Any = Model()
    made.max_len, made.max_chars = max_len, 6 * max_len
    made.tokenizer = Counted(made.tokenizer)
    return made


def item(context: Any, *completions: Any) -> ForcingItem:
    paths = tuple(f"completions.{number}" for number in range(len(completions)))
    return ForcingItem(Plain(context), tuple(map(Completion, completions)), "", paths)


@pytest.mark.parametrize(
    ("context", "completion"),
    [
        ("A " * 200, "B"),
        ("A", "B " * 200),
        ("A " * 100, "B " * 100),
        ((1,) * 200, "B"),
        ("A", (1,) * 200),
    ],
)
async def test_what_cannot_fit_is_refused_before_anything_is_encoded(
    context: Any, completion: Any
) -> None:
    asked = model()
    with pytest.raises(TooLongError) as refused:
        await TextEncoder(asked).prepare([item("A", "B"), item(context, "B", completion)])
    assert refused.value.field in ("completions.0", "completions.1")
    assert asked.tokenizer.encoded == []


async def test_the_first_text_that_is_too_long_is_the_last_that_is_encoded() -> None:
    asked = model()
    with pytest.raises(TooLongError, match=r"`completions\.0`: 101 tokens with its context"):
        await TextEncoder(asked).prepare([item("A " * 100, *["B"] * 50)])
    assert len(asked.tokenizer.encoded) == 1


async def test_all_texts_of_a_request_have_a_bound() -> None:
    encoder = TextEncoder(model(), max_tokens=100)
    await encoder.prepare([item((1,) * 9, *[(1,)] * 10)])
    with pytest.raises(TooLongError, match=r"more than 100 tokens .*--max-forced-tokens"):
        await encoder.prepare([item((1,) * 9, *[(1,)] * 11)])


async def test_a_long_prompt_is_encoded_once(bpe: Any) -> None:
    asked = model(max_len=10_000)
    asked.tokenizer, asked.vocab_size = Counted(bpe), 49_152
    prompt = "The sky is blue, and the grass is green. " * 100
    jobs = await TextEncoder(asked).prepare([item(prompt, "Why", " Why", "So", (5,), (6,))])
    texts = [bpe.decode(job.text.token_ids) for job in jobs[:3]]
    assert texts == [prompt + "Why", prompt + " Why", prompt + "So"]
    # With the first completion, and alone before token ids.
    assert [text for text in asked.tokenizer.encoded if len(text) > 1000] == [
        prompt + "Why",
        prompt,
    ]


async def test_others_have_their_turn_and_a_caller_that_leaves_ends_its_work() -> None:
    asked = model(max_len=2 * TURN)
    asked.max_chars = 2 * TURN
    encoder = TextEncoder(asked)
    asked.tokenizer.leave.clear()
    many = asyncio.create_task(encoder.prepare([item("A " * (TURN // 2), *["B"] * 50)]))
    left = asyncio.create_task(encoder.prepare([item("B " * (TURN // 2), *["C"] * 50)]))
    one = asyncio.create_task(encoder.prepare([item("A", "C")]))
    while not asked.tokenizer.encoded:
        await asyncio.sleep(0.01)
    left.cancel()
    asked.tokenizer.leave.set()
    await one
    assert not many.done()
    many.cancel()
    await asyncio.gather(many, left, return_exceptions=True)
    encoded = asked.tokenizer.encoded
    await encoder.prepare([item("A", "C")])
    assert len(encoded) < 20


@pytest.mark.parametrize("special", [True, False])
def test_a_prompts_beginning_that_is_encoded_once_has_the_same_tokens(
    bpe: Any, special: bool
) -> None:
    """Whatever stands at the border: words, blanks, and characters that are several tokens."""
    text = (ROOT / "docs/uncertainty.md").read_text() + " é漢字🎉 \n\n \t  x" * 40
    completions = ["", " ", "s", " the", "ing of", "\n\n", "  ", "\N{COMBINING ACUTE ACCENT}", "🎉"]
    for start in range(0, len(text) - 3000, 997):
        prompt = text[start : start + 1500]
        together = ContextEncoder(bpe, prompt, special)
        for completion in completions:
            alone = ContextEncoder(bpe, prompt, special).followed_by(completion)
            assert together.followed_by(completion) == alone


def test_where_a_word_is_all_of_the_text_nothing_is_encoded_apart(bpe: Any) -> None:
    prompt = "a" * 3000
    counted = Counted(bpe)
    together = ContextEncoder(counted, prompt, add_special_tokens=True)
    for completion in ("a", "b"):
        alone = ContextEncoder(bpe, prompt, add_special_tokens=True).followed_by(completion)
        assert together.followed_by(completion) == alone
    assert [len(text) for text in counted.encoded] == [3001, 3001]
