"""Log-probabilities as joined JSON against the same as pydantic's objects."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionResponseChoice,
    ChatMessage,
)
from vllm.tokenizers import TokenizerLike

from conf_server.engine.client.decoding import decoder
from conf_server.serving.chat import ConfidenceServingChat
from conf_server.serving.completion import ConfidenceServingCompletion
from conf_server.serving.confidence import Confidence
from conf_server.serving.logprobs_encoder import ENTRIES, LogprobsEncoder
from conf_server.serving.score_handler import ServingScore
from conf_server.serving.score_protocol import ScoreRequest
from conf_server.serving.splices import Splices
from conf_server.serving.trace_delta import TraceDelta
from conf_server.settings import Mode
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.stats.forced import ForcedRows, ForcedText
from conf_server.stats.row_layout import ColumnGroup
from conf_server.stats.trace import TokenTrace
from tests.unit.serving.tokenizers import KINDS, load_tokenizer

METRICS = ("perplexity", "mean_token_entropy")
EURO_IN_BYTES = "€".encode()


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest,
    model_path: Path,
    sentence_model_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> TokenizerLike:
    folder = tmp_path_factory.mktemp("tokenizer")
    return load_tokenizer(request.param, model_path, sentence_model_path, folder)


@pytest.fixture(scope="module")
def encoder() -> LogprobsEncoder:
    """One for all examples, as in a server: later examples find what earlier ones have made."""
    return LogprobsEncoder()


@pytest.fixture(scope="module")
def odd_ids(tokenizer: TokenizerLike) -> list[int]:
    """Special tokens, and all the parts of characters that come early in the vocabulary."""
    first = range(min(1_000, tokenizer.vocab_size))
    parts = [i for i in first if tokenizer.decode([i]).endswith("�")]
    return [*tokenizer.all_special_ids, *parts]


LOGPROB = st.one_of(
    st.floats(-50, 0, width=32), st.sampled_from([float("-inf"), float("nan"), -0.0, -1e-30])
)


def draw_trace(data: st.DataObject, vocab_size: int, odd_ids: list[int]) -> TokenTrace:
    """A trace of random tokens, many of which share a character with their neighbours."""
    token = st.integers(0, vocab_size - 1)
    if odd_ids:
        token = st.one_of(token, st.sampled_from(odd_ids))
    length, width = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 6))
    trace = TokenTrace(width, (ColumnGroup.STATISTICS,))
    if data.draw(st.integers(0, 19)) == 0:  # as long as to be written in several pieces
        extend(trace, 2 * ENTRIES // (1 + width), vocab_size, odd_ids)
    for _ in range(length):
        candidates = data.draw(st.lists(token, min_size=width, max_size=width, unique=True))
        own = data.draw(st.one_of(token, st.sampled_from(candidates)) if width else token)
        numbers = st.lists(LOGPROB, min_size=1 + width, max_size=1 + width)
        statistics = [data.draw(LOGPROB) for _ in range(NUM_TOKEN_STATISTICS)]
        trace.append(
            np.array([[own, *candidates]], np.int32),
            np.array([[*data.draw(numbers), *statistics]], np.float32),
            np.array([data.draw(st.integers(1, vocab_size))], np.int32),
        )
    return trace


def extend(trace: TokenTrace, length: int, vocab_size: int, odd_ids: list[int]) -> None:
    """Many random tokens, every other one a part of a character where there are such."""
    random = np.random.default_rng(length)
    shape = length, 1 + trace.width
    ids = random.integers(0, vocab_size, shape, np.int32)
    if odd_ids:
        ids[::2] = random.choice(odd_ids, ids[::2].shape)
    numbers = random.normal(-5, 1, (length, shape[1] + NUM_TOKEN_STATISTICS)).astype(np.float32)
    trace.append(ids, numbers, np.ones(length, np.int32))


def confidence(mode: Mode, metrics: tuple[str, ...], vocab_size: int) -> Confidence:
    return Confidence(mode, 3, 4, metrics, engine_statistics=True, vocab_size=vocab_size)


def filled(splices: Splices, dumped: str) -> Any:
    return json.loads(asyncio.run(splices.fill(dumped.encode())))


@given(st.data())
def test_chat_has_the_same_json(
    tokenizer: TokenizerLike, encoder: LogprobsEncoder, odd_ids: list[int], data: st.DataObject
) -> None:
    trace = draw_trace(data, tokenizer.vocab_size, odd_ids)
    mode: Mode = data.draw(st.sampled_from(["per_token", "summary"]))
    metrics = data.draw(st.sampled_from([(), METRICS]))
    start = data.draw(st.integers(0, len(trace) - 1))
    shown = data.draw(st.sampled_from([None, -1, *range(trace.width + 1)]))
    as_ids = data.draw(st.booleans())
    handler = object.__new__(ConfidenceServingChat)
    settings = confidence(mode, metrics, tokenizer.vocab_size)

    def choice(splices: Splices | None) -> ChatCompletionResponseChoice:
        delta = TraceDelta(settings, trace, start, len(trace), True, splices)
        ids = trace.rows(start, len(trace)).token_ids.tolist()
        logprobs = handler._create_chat_logprobs(ids, delta, tokenizer, shown, None, as_ids)
        message = ChatMessage(role="assistant", content="")
        return ChatCompletionResponseChoice(index=0, message=message, logprobs=logprobs)

    splices = Splices(encoder)
    expected = json.loads(choice(None).model_dump_json())
    assert filled(splices, choice(splices).model_dump_json()) == expected
    assert (
        filled(splices, choice(splices).model_dump_json(exclude_unset=True))["logprobs"]
        == (expected["logprobs"])
    )


@given(st.data())
def test_completions_have_the_same_json(
    tokenizer: TokenizerLike, encoder: LogprobsEncoder, odd_ids: list[int], data: st.DataObject
) -> None:
    trace = draw_trace(data, tokenizer.vocab_size, odd_ids)
    mode: Mode = data.draw(st.sampled_from(["per_token", "summary"]))
    metrics = data.draw(st.sampled_from([(), METRICS]))
    start = data.draw(st.integers(0, len(trace) - 1))
    shown = data.draw(st.sampled_from([-1, *range(trace.width + 1)]))
    as_ids = data.draw(st.booleans())
    handler = object.__new__(ConfidenceServingCompletion)
    settings = confidence(mode, metrics, tokenizer.vocab_size)

    def dumped(splices: Splices | None) -> str:
        delta = TraceDelta(settings, trace, start, len(trace), True, splices)
        ids = trace.rows(start, len(trace)).token_ids.tolist()
        return handler._create_completion_logprobs(
            ids, delta, shown, tokenizer, None, 7, as_ids
        ).model_dump_json()

    splices = Splices(encoder)
    assert filled(splices, dumped(splices)) == json.loads(dumped(None))


@given(st.data())
def test_score_has_the_same_json(
    tokenizer: TokenizerLike, encoder: LogprobsEncoder, odd_ids: list[int], data: st.DataObject
) -> None:
    trace = draw_trace(data, tokenizer.vocab_size, odd_ids)
    handler = object.__new__(ServingScore)
    handler._backend = SimpleNamespace(decode=decoder(tokenizer))
    own = trace.all().token_ids.tolist()
    unscored = data.draw(st.lists(st.sampled_from(own), max_size=1))
    context = [] if unscored else data.draw(st.lists(st.sampled_from(own), min_size=1))
    text = ForcedText([*context, *unscored, *own], len(context))
    metrics = data.draw(st.sampled_from([None, METRICS]))
    shown = data.draw(st.integers(0, trace.width))
    settings = confidence("per_token", metrics or (), tokenizer.vocab_size)

    def dumped(splices: Splices | None) -> str:
        request = ScoreRequest(
            prompt="", completion="x", top_logprobs=shown, metrics=metrics and list(metrics)
        )
        if splices is not None:
            request.take_splices(splices)
        forced = ForcedRows(trace.all(), 0)
        return handler._result(0, text, forced, settings, request).model_dump_json(
            exclude_unset=True
        )

    splices = Splices(encoder)
    assert filled(splices, dumped(splices)) == json.loads(dumped(None))


def test_a_character_split_over_tokens_belongs_to_the_last_of_them(
    tokenizer: TokenizerLike, encoder: LogprobsEncoder
) -> None:
    ids = tokenizer.encode("5\N{OSMANYA DIGIT ONE}!", add_special_tokens=False)
    trace = TokenTrace(0, (ColumnGroup.STATISTICS,))
    for token_id in ids:
        row = np.zeros((1, 1 + NUM_TOKEN_STATISTICS), np.float32)
        trace.append(np.array([[token_id]], np.int32), row, np.array([1], np.int32))
    splices = Splices(encoder)
    delta = TraceDelta(confidence("summary", (), 10), trace, 0, len(ids), True, splices)
    handler = object.__new__(ConfidenceServingChat)
    logprobs = handler._create_chat_logprobs(ids, delta, tokenizer, 0, None, False)
    content = filled(splices, logprobs.model_dump_json())["content"]
    assert "".join(entry["token"] for entry in content).strip() == tokenizer.decode(ids).strip()
