"""Answers of the decoding loop, held against transformers' own `generate`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from conf_server.backends.base import (
    Answers,
    Ask,
    Caller,
    Chat,
    Completion,
    ForcingItem,
    Plain,
)
from conf_server.backends.streaming import Piece
from conf_server.backends.transformers import TransformersBackend
from conf_server.backends.transformers_forward import ForwardPasses, joined_rows
from conf_server.backends.transformers_model import LoadedModel
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import WantedRows
from tests.reference import Reference, token_statistics

CALLER = Caller("request")
ROWS = WantedRows(20, 3, statistics=True)
PROMPT = Plain("The three primary colours are")
ASK = Ask(PROMPT, max_tokens=12)
SAMPLED = Ask(PROMPT, n=3, temperature=1.0, max_tokens=8, options={"seed": 7})


async def answers(backend: TransformersBackend, ask: Ask, **options: Any) -> Answers:
    ask = replace(ask, options={**ask.options, **options})
    return await backend.generate(ask, ROWS, CALLER)


def tokens_of(made: Answers) -> list[list[int]]:
    return [answer.rows.token_ids.tolist() for answer in made.answers]


def texts_of(made: Answers) -> list[str]:
    return [answer.text for answer in made.answers]


async def test_the_greedy_answer_is_that_of_generate(
    backend: TransformersBackend, reference: Reference
) -> None:
    messages = ({"role": "user", "content": "Name a colour."},)
    prompt = reference.tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=False
    )
    made = await answers(backend, Ask(Chat(messages), max_tokens=40))
    (answer,) = made.answers
    expected = reference.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=40)[
        0, len(prompt) :
    ].tolist()
    assert answer.rows.token_ids.tolist() == expected
    assert expected[-1] == reference.tokenizer.eos_token_id
    assert answer.finish_reason == "stop"
    assert answer.text == reference.tokenizer.decode(expected, skip_special_tokens=True)
    assert (made.prompt_tokens, made.completion_tokens) == (len(prompt), len(expected))
    raw = reference.log_softmax([*prompt, *expected], len(prompt))
    assert_allclose(answer.rows.logprobs, raw[np.arange(len(raw)), expected], atol=1e-4)
    assert_allclose(answer.rows.candidate_logprobs, -np.sort(-raw, axis=1)[:, :3], atol=1e-4)
    assert_allclose(answer.rows.statistics, token_statistics(raw, 20), atol=2e-4)


async def test_rows_are_of_raw_logits_whatever_is_sampled(
    backend: TransformersBackend, reference: Reference
) -> None:
    made = await answers(
        backend, SAMPLED, top_p=0.5, top_k=9, repetition_penalty=1.5, logit_bias={"28": 5.0}
    )
    prompt = reference.tokenizer.encode(PROMPT.content)
    for answer in made.answers:
        ids = answer.rows.token_ids.tolist()
        raw = reference.log_softmax([*prompt, *ids], len(prompt))
        own = raw[np.arange(len(ids)), ids]
        assert_allclose(answer.rows.logprobs, own, atol=1e-4)
        assert answer.rows.ranks.tolist() == ((raw > own[:, None]).sum(1) + 1).tolist()


async def test_a_seed_repeats_whatever_runs_beside(backend: TransformersBackend) -> None:
    first, again, fewer = await asyncio.gather(
        answers(backend, SAMPLED),
        answers(backend, SAMPLED),
        answers(backend, replace(SAMPLED, n=1)),
    )
    assert len(set(map(tuple, tokens_of(first)))) == 3
    assert tokens_of(again) == tokens_of(first)
    assert tokens_of(fewer) == tokens_of(first)[:1]
    assert tokens_of(await answers(backend, SAMPLED, seed=8)) != tokens_of(first)
    unseeded = [tokens_of(await answers(backend, SAMPLED, seed=None)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


async def test_samples_come_from_the_distribution(
    backend: TransformersBackend, reference: Reference
) -> None:
    ask = Ask(PROMPT, n=400, temperature=1.0, max_tokens=1, options={"seed": 1})
    drawn = [ids[0] for ids in tokens_of(await answers(backend, ask))]
    prompt = reference.tokenizer.encode(PROMPT.content)
    p = np.exp(reference.log_softmax([*prompt, 0], len(prompt))[0])
    for token in np.argsort(-p)[:3]:
        spread = np.sqrt(p[token] * (1 - p[token]) / len(drawn))
        assert abs(drawn.count(token) / len(drawn) - p[token]) < 4 * spread


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_within_and_across_tokens(
    backend: TransformersBackend, include: bool
) -> None:
    whole = (await answers(backend, ASK)).answers[0]
    pieces = [backend.text_of([token]) for token in whole.rows.token_ids]
    # From the middle of one token's text into the next one's.
    stop = pieces[3][-2:] + pieces[4][:2]
    made = await answers(backend, ASK, stop=["never", stop], include_stop_str_in_output=include)
    (answer,) = made.answers
    before = whole.text[: whole.text.index(stop)]
    assert answer.text == before + (stop if include else "")
    assert answer.finish_reason == "stop"
    assert len(answer.rows) < len(whole.rows)
    assert texts_of(await answers(backend, ASK, stop=stop)) == [before]


async def test_stop_tokens_end_and_are_not_shown(backend: TransformersBackend) -> None:
    whole = (await answers(backend, ASK)).answers[0]
    stop = int(whole.rows.token_ids[4])
    place = whole.rows.token_ids.tolist().index(stop)
    pieces = [
        p async for p in backend.stream(with_options(ASK, stop_token_ids=[stop]), ROWS, CALLER)
    ]
    assert [p.rows.token_ids[0] for p in pieces] == whole.rows.token_ids[: place + 1].tolist()
    assert "".join(p.text for p in pieces) == backend.text_of(whole.rows.token_ids[:place])
    assert (pieces[-1].finish_reason, pieces[-1].stop_reason) == ("stop", stop)


def with_options(ask: Ask, **options: Any) -> Ask:
    return replace(ask, options=options)


async def test_end_tokens_wait_for_min_tokens_and_can_be_ignored(
    backend: TransformersBackend,
) -> None:
    end = backend.tokenizer.eos_token_id
    likely = {"logit_bias": {str(end): 100}}
    (short,) = tokens_of(await answers(backend, ASK, **likely))
    assert short == [end]
    (later,) = tokens_of(await answers(backend, ASK, **likely, min_tokens=4))
    assert later[4:] == [end]
    assert end not in later[:4]
    made = await answers(backend, ASK, **likely, ignore_eos=True)
    assert tokens_of(made) == [[end] * 12]
    assert made.answers[0].finish_reason == "length"
    assert made.answers[0].text == ""
    shown = await answers(backend, ASK, **likely, ignore_eos=True, skip_special_tokens=False)
    assert shown.answers[0].text == backend.tokenizer.decode([end]) * 12


async def test_without_max_tokens_an_answer_has_all_the_room(
    loaded: LoadedModel, passes: ForwardPasses, options: TransformersOptions
) -> None:
    backend = TransformersBackend(replace(loaded, max_len=16), passes, options)
    ask = Ask(PROMPT, options={"ignore_eos": True})
    made = await backend.generate(ask, ROWS, CALLER)
    assert made.prompt_tokens + made.completion_tokens == 16
    assert made.answers[0].finish_reason == "length"


@pytest.mark.parametrize("change", [{"cache": "static"}, {"max_batch_tokens": 3}])
async def test_neither_a_static_cache_nor_a_prompt_in_parts_changes_the_answer(
    backend: TransformersBackend,
    loaded: LoadedModel,
    passes: ForwardPasses,
    options: TransformersOptions,
    change: dict[str, Any],
) -> None:
    other = TransformersBackend(loaded, passes, replace(options, **change))
    expected = await answers(backend, SAMPLED)
    assert tokens_of(await answers(other, SAMPLED)) == tokens_of(expected)


async def test_pieces_join_to_the_answers(backend: TransformersBackend) -> None:
    """With characters that are split over tokens, and answers that end one after another."""
    ask = Ask(
        Plain("😀🎉 漢字かな 😀🎉 漢字"), n=3, temperature=1.2, max_tokens=24, options={"seed": 5}
    )
    whole = await backend.generate(ask, ROWS, CALLER)
    pieces: dict[int, list[Piece]] = {0: [], 1: [], 2: []}
    async for piece in backend.stream(ask, ROWS, CALLER):
        pieces[piece.index].append(piece)
    for answer, parts in zip(whole.answers, pieces.values(), strict=True):
        assert "".join(part.text for part in parts) == answer.text
        assert answer.text == backend.text_of(answer.rows.token_ids).rstrip("\ufffd")
        rows = joined_rows([part.rows for part in parts])
        assert np.array_equal(rows.named_logprobs, answer.rows.named_logprobs)
        reasons = [part.finish_reason for part in parts]
        assert reasons == [None] * (len(parts) - 1) + [answer.finish_reason]


async def test_rows_of_a_stream_are_of_new_tokens_only(backend: TransformersBackend) -> None:
    async for piece in backend.stream(ASK, ROWS, CALLER):
        assert len(piece.rows) == 1
        assert piece.rows.statistics is not None


async def test_a_cancelled_answer_leaves_the_model_to_others(
    backend: TransformersBackend, options: TransformersOptions
) -> None:
    endless = Ask(PROMPT, n=4, temperature=1.0, options={"ignore_eos": True})
    work = [
        asyncio.create_task(backend.generate(endless, ROWS, CALLER))
        for _ in range(options.max_generations)
    ]
    await asyncio.sleep(0.1)
    for task in work:
        task.cancel()
    await asyncio.wait(work)
    assert all(task.cancelled() for task in work)
    # Every place is free again, and nothing of theirs stands before the next.
    assert len((await answers(backend, ASK)).answers[0].rows) == 12


async def test_a_closed_stream_ends(backend: TransformersBackend) -> None:
    endless = Ask(PROMPT, options={"ignore_eos": True})
    async with aclosing(backend.stream(endless, ROWS, CALLER)) as pieces:
        async for _ in pieces:
            break
    assert len((await answers(backend, ASK)).answers[0].rows) == 12


async def test_a_long_answer_does_not_hold_up_a_text(backend: TransformersBackend) -> None:
    endless = Ask(PROMPT, options={"ignore_eos": True})
    stream = backend.stream(endless, ROWS, CALLER)
    await anext(stream)
    long = asyncio.create_task(collect(stream))
    item = ForcingItem(PROMPT, (Completion(" red"),), "", ("a",))
    (forced,) = await backend.force(await backend.prepare([item]), ROWS, Caller("short"))
    assert len(forced.rows) == 1
    assert not long.done()
    long.cancel()
    await asyncio.wait([long])


async def collect(stream: Any) -> list[Piece]:
    return [piece async for piece in stream]


async def test_an_early_stop_that_nothing_could_decide_is_a_mistake(
    backend: TransformersBackend,
) -> None:
    wanted = WantedRows(1, 0, statistics=False)
    ask = Ask(Plain("One, two,"), max_tokens=2)
    with pytest.raises(ValueError, match="statistics"):
        async for _ in backend.stream(ask, wanted, Caller("request"), EarlyStop(1.0, 2, 2)):
            pass
