"""Passes for which there is no memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from conf_server.backends.base import Ask, Caller, ForcingJob, Plain
from conf_server.backends.transformers import TransformersBackend
from conf_server.backends.transformers_forward import ForwardPasses
from conf_server.backends.transformers_memory import in_halves, is_out_of_memory
from conf_server.refusal import RefusalError
from conf_server.stats.forced import ForcedText, WantedRows

CALLER = Caller("request")
ROWS = WantedRows(20, 3, statistics=True)
ASK = Ask(
    Plain("The three primary colours are"), 5, temperature=1.0, max_tokens=8, options={"seed": 7}
)
CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError(CPU_ALLOCATOR), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_is_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_only_what_does_not_fit_alone_is_refused() -> None:
    tried = []

    def work(items: list[int]) -> list[int]:
        tried.append(items)
        if sum(items) > 4:
            raise RuntimeError(CPU_ALLOCATOR)
        return [-item for item in items]

    first, second, refusal, last = in_halves([1, 2, 9, 3], work, "a text")
    assert (first, second, last) == (-1, -2, -3)
    assert isinstance(refusal, RefusalError)
    assert (refusal.field, refusal.status, refusal.kind) == (None, 503, "ServiceUnavailableError")
    assert "for a text" in str(refusal)
    assert tried == [[1, 2, 9, 3], [1, 2], [9, 3], [9], [3]]


def test_other_failures_are_raised() -> None:
    def work(items: list[int]) -> list[int]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        in_halves([1, 2], work, "a text")


_LIMITED = """
import resource, torch
from transformers import LlamaConfig, LlamaForCausalLM
from conf_server.backends.transformers_forward import ForcedWork, ForwardPasses
from conf_server.backends.transformers_memory import in_halves
from conf_server.refusal import RefusalError
from conf_server.stats.forced import ForcedText, WantedRows

torch.set_num_threads(1)
sizes = {"hidden_size": 64, "intermediate_size": 16384, "num_hidden_layers": 1}
config = LlamaConfig(vocab_size=64, num_attention_heads=2, **sizes)
passes = ForwardPasses(LlamaForCausalLM(config).eval())
batches = []

def run(works):
    batches.append(len(works))
    return passes.forced(works)

def forced(count, length):
    wanted = WantedRows(1, 0, statistics=True)
    texts = [ForcedText([i + 1] * length, length - 3) for i in range(count)]
    return in_halves([ForcedWork(text, wanted) for text in texts], run, "a text")

expected = forced(8, 32)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 450 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
# The widest activations of a text are 64 MiB, and it has four of them at a time.
together = forced(8, 1024)
assert not any(isinstance(one, RefusalError) for one in together)
assert batches[1] == 8 and batches[-1] < 4, batches
(refusal,) = forced(1, 20000)
assert isinstance(refusal, RefusalError) and refusal.status == 503
again = forced(8, 32)
assert batches[-1] == 8
for one, other in zip(again, expected, strict=True):
    assert (one.rows.logprobs == other.rows.logprobs).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_process_without_memory_goes_on() -> None:
    """A process that may really allocate no more."""
    subprocess.run([sys.executable, "-c", _LIMITED], check=True, timeout=120)


# Through the backend, with a model that is told to fail.


@contextmanager
def room_for(passes: ForwardPasses, rows: int, after: int = 0) -> Iterator[list[int]]:
    """The model fails on more rows than these, after so many passes; how many it was given."""
    given: list[int] = []

    def refuse(_module: Any, args: Any, kwargs: Any) -> None:
        given.append(len(kwargs["input_ids"]))
        if len(given) > after and given[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = passes.body.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield given
    finally:
        hook.remove()


@pytest.mark.parametrize("after", [0, 4])
async def test_answers_for_which_there_is_no_memory_are_made_in_smaller_groups(
    backend: TransformersBackend, passes: ForwardPasses, after: int
) -> None:
    expected = await backend.generate(ASK, ROWS, CALLER)
    with room_for(passes, 2, after) as given:
        made = await backend.generate(ASK, ROWS, CALLER)
    assert max(given) == 5
    assert max(given[-8:]) <= 2
    for answer, other in zip(made.answers, expected.answers, strict=True):
        assert answer.rows.token_ids.tolist() == other.rows.token_ids.tolist()
        assert answer.text == other.text


async def test_an_answer_for_which_there_is_no_memory_is_refused_and_the_next_is_not(
    backend: TransformersBackend, passes: ForwardPasses
) -> None:
    with room_for(passes, 0), pytest.raises(RefusalError, match="for an answer") as refused:
        await backend.generate(ASK, ROWS, CALLER)
    assert (refused.value.status, refused.value.kind) == (503, "ServiceUnavailableError")
    made = await backend.generate(replace(ASK, n=1, max_tokens=2), ROWS, CALLER)
    assert len(made.answers[0].rows) == 2


async def test_texts_for_which_there_is_no_memory_are_read_in_smaller_batches(
    backend: TransformersBackend, passes: ForwardPasses
) -> None:
    jobs = [ForcingJob(ForcedText([5, 6, 7, token], 1), 0, "") for token in range(5)]
    with room_for(passes, 2) as given:
        found = await backend.force(jobs, ROWS, CALLER)
    assert [one.rows.token_ids[-1] for one in found] == [0, 1, 2, 3, 4]
    assert given == [5, 2, 3, 1, 2]
    with room_for(passes, 0), pytest.raises(RefusalError, match="for a text") as refused:
        await backend.force(jobs[:1], ROWS, CALLER)
    assert refused.value.status == 503
    assert len(await backend.force(jobs, ROWS, CALLER)) == 5
