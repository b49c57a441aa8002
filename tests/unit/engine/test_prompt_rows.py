"""Rows of forced texts, whatever way the scheduler cuts them up. No model, no engine."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import LogprobsTensors

from conf_server.engine.marks import PromptMark, SamplesMark, set_mark
from conf_server.engine.worker import prompt_rows
from conf_server.engine.worker.prompt_rows import PromptChunk, PromptStatistics
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.trace import TokenTrace, TraceRows
from tests.reference import token_statistics

VOCABULARY, HIDDEN = 50, 8
HEAD = torch.randn((HIDDEN, VOCABULARY), generator=torch.Generator().manual_seed(1))


class Text:
    """A request: its prompt, its hidden states, its mark."""

    def __init__(self, name: str, length: int, mark: PromptMark) -> None:
        draw = torch.Generator().manual_seed(length)
        self.name = name
        self.mark = mark
        self.token_ids = torch.randint(VOCABULARY, (length,), generator=draw)
        self.hidden_states = torch.randn((length, HIDDEN), generator=draw)

    def params(self) -> SamplingParams:
        params = SamplingParams(max_tokens=1)
        set_mark(params, self.mark)
        return params

    def expected(self) -> np.ndarray:
        """(scored, V) log-probabilities."""
        logits = (self.hidden_states @ HEAD).double()
        return logits.log_softmax(-1).numpy()[self.mark.first - 1 : -1]

    def rows(self, tensors: LogprobsTensors) -> TraceRows:
        layout = self.mark.layout()
        trace = TokenTrace(layout.candidates, layout.groups)
        trace.append(*(column.numpy() for column in tensors[:3]))
        return trace.all()

    def assert_scored(self, tensors: LogprobsTensors) -> None:
        rows, expected = self.rows(tensors), self.expected()
        scored = self.token_ids[self.mark.first :]
        own = expected[np.arange(len(expected)), scored]
        assert rows.token_ids.tolist() == scored.tolist()
        np.testing.assert_allclose(rows.logprobs, own, atol=1e-5)
        np.testing.assert_allclose(
            rows.statistics, token_statistics(expected, self.mark.statistics_top_k), atol=1e-4
        )
        chosen = np.take_along_axis(expected, rows.candidate_ids, axis=1)
        np.testing.assert_allclose(rows.candidate_logprobs, chosen, atol=1e-5)
        if self.mark.token_ids:
            assert rows.candidate_ids.tolist() == [list(self.mark.token_ids)] * len(rows)
        else:
            best = -np.sort(-expected, axis=1)[:, : self.mark.candidates]
            np.testing.assert_allclose(chosen, best, atol=1e-5)
        if self.mark.ranks:
            assert rows.ranks.tolist() == (expected >= own[:, None]).sum(axis=1).tolist()


class Engine:
    """Steps of one or more texts' chunks, and how many rows of logits they took."""

    def __init__(self, *texts: Text) -> None:
        self.statistics = PromptStatistics()
        self.num_logits = 0
        for text in texts:
            self.statistics.add_request(text.name, text.params())

    def step(self, *parts: tuple[Text, int, int]) -> dict[str, LogprobsTensors]:
        """Compute positions start..stop-1 of each text; those past its end are generated."""
        chunks, hidden, offset = [], [], 0
        for text, start, stop in parts:
            ids = text.token_ids
            chunks.append(
                PromptChunk(
                    req_id=text.name,
                    start=start,
                    num_tokens=stop - start,
                    prompt_len=len(ids),
                    offset=offset,
                    token_ids=lambda begin, end, ids=ids: ids[begin:end],
                )
            )
            hidden.append(text.hidden_states[start:stop])
            offset += stop - start
        return self.statistics.step(chunks, torch.cat(hidden), self._logits)

    def _logits(self, hidden_states: Tensor) -> Tensor:
        self.num_logits += len(hidden_states)
        return hidden_states @ HEAD


def mark(first: int, top_k: int = 3, **fields: Any) -> PromptMark:
    return PromptMark(top_k, first, **fields)


@given(
    length_and_first=st.integers(2, 30).flatmap(
        lambda length: st.tuples(st.just(length), st.integers(1, length - 1))
    ),
    cuts=st.lists(st.integers(1, 29), max_size=4),
    candidates=st.integers(0, 4),
    ranks=st.booleans(),
)
def test_a_text_in_any_chunks(
    length_and_first: tuple[int, int], cuts: list[int], candidates: int, ranks: bool
) -> None:
    length, first = length_and_first
    text = Text("a", length, mark(first, candidates=candidates, ranks=ranks))
    engine = Engine(text)
    borders = sorted({0, length, *(cut for cut in cuts if cut < length)})
    answers = [engine.step((text, start, stop)) for start, stop in pairwise(borders)]
    assert not any(answers[:-1])
    text.assert_scored(answers[-1]["a"])
    assert engine.num_logits == length - first
    assert not engine.statistics


def test_texts_of_one_step_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_rows, "_ROWS_AT_ONCE", 7)
    texts = [
        Text("a", 12, mark(4, top_k=2)),
        Text("b", 20, mark(1, top_k=9, candidates=5, ranks=True)),
        Text("c", 15, mark(14, top_k=1, candidates=2)),
        Text("d", 9, mark(3, token_ids=(40, 7), ranks=True)),
        Text("e", 10, mark(9, token_ids=(7, 12, 40), candidates=8)),
    ]
    engine = Engine(*texts)
    answers = engine.step(*((text, 0, len(text.token_ids)) for text in texts))
    for text in texts:
        text.assert_scored(answers[text.name])


def test_a_text_behind_a_cached_context() -> None:
    text = Text("a", 20, mark(9))
    engine = Engine(text)
    text.assert_scored(engine.step((text, 8, 20))["a"])


def test_a_preempted_text_begins_anew() -> None:
    text = Text("a", 20, mark(9))
    engine = Engine(text)
    assert not engine.step((text, 0, 15))
    assert not engine.step((text, 8, 12))
    text.assert_scored(engine.step((text, 12, 20))["a"])


@pytest.mark.parametrize("start", [9, 12, 19])
def test_no_rows_rather_than_fewer_than_asked_for(start: int) -> None:
    """A cache that nobody has capped had the first scored token's row."""
    text = Text("a", 20, mark(9))
    assert Engine(text).step((text, start, 20)) == {}


def test_rows_lost_in_the_middle_are_missed() -> None:
    text = Text("a", 20, mark(9))
    engine = Engine(text)
    engine.step((text, 0, 12))
    assert engine.step((text, 14, 20)) == {}


def test_equal_logits_are_equally_likely_to_the_bit() -> None:
    text = Text("a", 3, mark(1, candidates=2))
    text.hidden_states[:] = torch.randn(HIDDEN)
    likeliest = int((text.hidden_states[0] @ HEAD).argmax())
    text.token_ids[:] = likeliest
    rows = text.rows(Engine(text).step((text, 0, 3))["a"])
    assert rows.statistics is not None
    assert rows.logprobs.tolist() == rows.candidate_logprobs[:, 0].tolist()
    assert rows.logprobs.tolist() == rows.statistics[:, TokenStatistic.LOGPROB_1ST].tolist()


def test_other_requests_are_none_of_its_business() -> None:
    statistics = PromptStatistics()
    stock, samples, top_k = (SamplingParams(prompt_logprobs=1) for _ in range(3))
    set_mark(samples, SamplesMark(3))
    set_mark(top_k, PromptMark())
    for name, params in (("a", stock), ("b", samples), ("c", top_k), ("d", None)):
        statistics.add_request(name, params)
        assert name not in statistics


def test_an_aborted_request_is_forgotten() -> None:
    text = Text("a", 20, mark(9))
    engine = Engine(text)
    engine.step((text, 0, 12))
    engine.statistics.remove_request("a")
    assert not engine.statistics
