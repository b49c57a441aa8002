"""Marked requests beside others that change what vLLM does in a step. V1, one engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm.outputs import CompletionOutput
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.exact_statistics import SPECULATIVE
from conf_server.engine.marks import SamplesMark, set_mark
from tests.engine.small_engine import CHUNK, answer, small_engine
from tests.reference import Reference, token_statistics

TOP_K = 5
WIDTH = 3
PROMPT = list(range(1000, 1020))
LONG = list(range(2000, 2000 + 3 * CHUNK))
LABELS = {"two": [7, 8], "six": [11, 12, 13, 14, 15, 16]}
GRAMMAR = StructuredOutputsParams(choice=["yes", "no"])


def marked(deferred: bool, top_k: int = TOP_K, **fields: Any) -> SamplingParams:
    given = {"max_tokens": 24, "temperature": 0, "ignore_eos": True, "logprobs": WIDTH}
    params = SamplingParams(**given | fields)
    set_mark(params, SamplesMark(top_k, deferred))
    return params


@dataclass
class Answers:
    """What the engine said."""

    traced: dict[str, CompletionOutput]
    labels: dict[str, CompletionOutput]
    seeded: list[CompletionOutput]
    masked: CompletionOutput


async def ask(model: Path) -> Answers:
    async with small_engine(model) as engine:
        work = {
            "at once": answer(engine, "at once", PROMPT, marked(deferred=False)),
            "deferred": answer(engine, "deferred", PROMPT[1:], marked(deferred=True)),
        } | {f"labels {name}": label(engine, name) for name in LABELS}
        done = dict(zip(work, await asyncio.gather(*work.values()), strict=True))
        seeded = await asyncio.gather(*(seed(engine, f"seed-{n}", LONG) for n in range(2)))
        # All but the end is in the cache: no chunks.
        seeded.append(await seed(engine, "seed-cached", LONG))
        masked = await answer(
            engine,
            "masked",
            PROMPT,
            marked(True, structured_outputs=GRAMMAR, max_tokens=2, ignore_eos=False),
        )
    labels = {name: done.pop(f"labels {name}") for name in LABELS}
    return Answers(done, labels, seeded, masked)


def label(engine: ConfidenceAsyncLLM, name: str) -> Any:
    params = SamplingParams(max_tokens=12, temperature=0, logprob_token_ids=LABELS[name])
    return answer(engine, f"labels-{name}", PROMPT[2:], params)


def seed(engine: ConfidenceAsyncLLM, name: str, prompt: list[int]) -> Any:
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=5, ignore_eos=True)
    return answer(engine, name, prompt, params)


@pytest.fixture(scope="module")
def answers(model_path: Path) -> Answers:
    return asyncio.run(ask(model_path))


def assert_raw(
    output: CompletionOutput, prompt: list[int], reference: Reference, statistics: bool = True
) -> Any:
    """The trace's rows, whose statistics are of the whole raw distribution."""
    tokens = list(output.token_ids)
    expected = reference.logprobs([*prompt, *tokens])[len(prompt) - 1 :]
    container: Any = output.logprobs
    rows = container.trace.all()
    assert rows.token_ids.tolist() == tokens
    if statistics:
        np.testing.assert_allclose(rows.statistics, token_statistics(expected, TOP_K), atol=2e-3)
    return rows, expected


@pytest.mark.parametrize(("name", "prompt"), [("at once", PROMPT), ("deferred", PROMPT[1:])])
def test_candidates_beside_a_request_that_names_tokens(
    name: str, prompt: list[int], answers: Answers, reference: Reference
) -> None:
    rows, expected = assert_raw(answers.traced[name], prompt, reference)
    assert len(rows) == 24
    best = -np.sort(-expected, axis=1)[:, :WIDTH]
    chosen = np.take_along_axis(expected, rows.candidate_ids, axis=1)
    np.testing.assert_allclose(rows.candidate_logprobs, best, atol=1e-3)
    np.testing.assert_allclose(chosen, best, atol=1e-3)


@pytest.mark.parametrize("name", LABELS)
def test_a_request_that_names_tokens_gets_those(
    name: str, answers: Answers, reference: Reference
) -> None:
    output = answers.labels[name]
    tokens, prompt = list(output.token_ids), PROMPT[2:]
    expected = reference.logprobs([*prompt, *tokens])[len(prompt) - 1 :]
    assert output.logprobs is not None
    for row, token, logprobs in zip(output.logprobs, tokens, expected, strict=True):
        assert set(row) == {token, *LABELS[name]}
        for named, entry in row.items():
            assert entry.logprob == pytest.approx(logprobs[named], abs=1e-3)


def test_a_seed_is_kept_where_the_prompt_comes_in_chunks(answers: Answers) -> None:
    first, *others = (output.token_ids for output in answers.seeded)
    assert len(set(first)) > 1
    assert all(tokens == first for tokens in others)


def test_statistics_of_a_structured_answer_are_the_models_own(
    answers: Answers, reference: Reference
) -> None:
    rows, expected = assert_raw(answers.masked, PROMPT, reference)
    own = expected[np.arange(len(expected)), rows.token_ids]
    assert (rows.logprobs[0] - own[0]) > 0.1  # vLLM's, of what the grammar allows


async def speculate(model: Path) -> CompletionOutput:
    config = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    async with small_engine(model, SPECULATIVE, speculative_config=config) as engine:
        # A worker that makes no statistics, asked for them all the same.
        repeated = PROMPT * 2
        failed = await answer(engine, "failed", repeated, marked(True, logprobs=0))
        assert failed.finish_reason == "error"
        return await answer(engine, "top k", repeated, marked(True, top_k=0, logprobs=TOP_K))


def test_speculative_decoding_has_no_statistics_and_the_engine_lives(
    model_path: Path, reference: Reference
) -> None:
    output = asyncio.run(speculate(model_path))
    rows, expected = assert_raw(output, PROMPT * 2, reference, statistics=False)
    best = -np.sort(-expected, axis=1)[:, :TOP_K]
    np.testing.assert_allclose(rows.candidate_logprobs, best, atol=1e-3)
