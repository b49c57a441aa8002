"""Texts of single tokens, held against the engine's."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from conf_server.backends.token_texts import TokenTexts
from conf_server.engine.client.decoding import decode_rows
from tests.reference import Reference

TEXT = "Grüße aus 東京: 😀 𝔸𝔹, naïve é"


def test_a_split_character_is_the_text_of_the_token_that_completes_it(
    reference: Reference,
) -> None:
    ids = reference.tokenizer.encode(TEXT)
    texts = [text for (text,) in TokenTexts(reference.tokenizer).rows([[i] for i in ids])]
    assert "".join(texts) == TEXT
    assert "" in texts
    assert not any("\ufffd" in text for text in texts)


def test_the_engine_shows_the_same(reference: Reference) -> None:
    """With other candidates at each place, and with a context."""
    chance = random.Random(0)
    own = [*reference.tokenizer.encode(TEXT), *(chance.randrange(49152) for _ in range(200))]
    rows = [[token, *(chance.randrange(49152) for _ in range(4))] for token in own]
    texts = TokenTexts(reference.tokenizer)
    assert texts.rows(rows) == decode_rows(reference.tokenizer, rows)
    assert texts.rows(rows[9:], own[:9]) == decode_rows(reference.tokenizer, rows[9:], own[:9])


@pytest.fixture
def sentencepiece() -> PreTrainedTokenizerFast:
    """Blanks are marks before words, and bytes are tokens, as in Llama 2 and Gemma."""
    vocab = {"<unk>": 0, "▁": 1, "▁a": 2, "b": 3, "▁▁c": 4}
    vocab |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    words = Tokenizer(BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words)


def test_blanks_that_decoding_drops_are_shown(sentencepiece: PreTrainedTokenizerFast) -> None:
    rows = [[2], [3], [4], [1]]
    assert TokenTexts(sentencepiece).rows(rows) == [[" a"], ["b"], ["  c"], [" "]]


def test_bytes_as_tokens(sentencepiece: PreTrainedTokenizerFast) -> None:
    rows = [[2], *([5 + byte] for byte in "é😀".encode()), [3]]
    shown = [text for (text,) in TokenTexts(sentencepiece).rows(rows)]
    assert shown == [" a", "", "é", "", "", "", "😀", "b"]
    assert shown == [text for (text,) in decode_rows(sentencepiece, rows)]
