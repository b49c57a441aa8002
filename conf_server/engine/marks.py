"""Marks: what a request wants of conf-server, written into its `SamplingParams`.

vLLM carries the mark from the API process through the scheduler to the workers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from vllm.sampling_params import SamplingParams

from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import Pooling
from conf_server.stats.row_layout import ColumnGroup, RowLayout

_ARG: Final = "conf_server"


class SamplesMark(msgspec.Struct, frozen=True, tag="samples"):
    """Marks a request whose generated tokens' log-probabilities arrive as a `TokenTrace`.

    Attributes:
        statistics_top_k: 0 for rows without statistics. Otherwise the workers append the
            columns of `TokenStatistic`, with the confidence over that many candidates.
        deferred: whether the rows may travel together at the end of the answer, because
            nobody reads them before.
        early_stop: when the scheduler ends the answer; the rows have statistics then.
    """

    statistics_top_k: int = 0
    deferred: bool = False
    early_stop: EarlyStop | None = None

    def layout(self, logprobs: int) -> RowLayout:
        """The columns of the request's rows.

        Args:
            logprobs: candidates that its `SamplingParams.logprobs` asks vLLM for.
        """
        return RowLayout(logprobs, _groups(self.statistics_top_k))


class PromptMark(msgspec.Struct, frozen=True, tag="prompt"):
    """Marks a request whose prompt's log-probabilities arrive as a `TokenTrace`.

    With `statistics_top_k` our code in the workers makes the rows, from position `first` on,
    and `SamplingParams.prompt_logprobs` stays unset. Without it the rows are vLLM's own prompt
    log-probabilities, and only the end of a prefix-cache hit follows from `first`.

    Attributes:
        statistics_top_k: as in `SamplesMark`.
        first: position in the prompt of the first token that needs a row, at least 1.
        candidates: how many of the likeliest tokens a row names.
        token_ids: if there are any, a row names these tokens instead of the likeliest.
        ranks: whether the rows need ranks. They are 0 if not.
    """

    statistics_top_k: int = 0
    first: int = 1
    candidates: int = 0
    token_ids: tuple[int, ...] = ()
    ranks: bool = False

    def layout(self, prompt_logprobs: int = 0) -> RowLayout:
        """The columns of the request's rows.

        Args:
            prompt_logprobs: candidates that its `SamplingParams.prompt_logprobs` asks vLLM
                for, where the rows are vLLM's own.
        """
        if not self.statistics_top_k:
            return RowLayout(prompt_logprobs)
        return RowLayout(len(self.token_ids) or self.candidates, _groups(self.statistics_top_k))


class AttentionMark(msgspec.Struct, frozen=True):
    """The attention weights that a `StatesMark` asks for; `WantedAttention` says what that is.

    Attributes:
        layers, history: as in `WantedAttention`.
        context: the first so many positions are the context whose mass is wanted, if it is.
        last_on: as in `WantedAttention`.
    """

    layers: tuple[int, ...]
    history: int = 1
    context: int | None = None
    last_on: tuple[int, int] | None = None


class StatesMark(msgspec.Struct, frozen=True, tag="states"):
    """Marks a request whose prompt's hidden states are wanted; `WantedStates` says what that is.

    Attributes:
        first: position in the prompt of the first token that counts.
        layers, pooling: as in `WantedStates`.
        attention: the weights that are wanted beside.
    """

    first: int
    layers: tuple[int, ...]
    pooling: Pooling
    attention: AttentionMark | None = None


Mark = SamplesMark | PromptMark | StatesMark


def _groups(statistics_top_k: int) -> tuple[ColumnGroup, ...]:
    return (ColumnGroup.STATISTICS,) if statistics_top_k else ()


def set_mark(params: SamplingParams, mark: Mark) -> None:
    """Mark a request."""
    # The mark is bytes, which JSON cannot express. So no client can mark a request, although
    # /inference/v1/generate takes all of extra_args from its body.
    params.extra_args = {**(params.extra_args or {}), _ARG: msgspec.json.encode(mark)}


def ask_for_rows(
    params: SamplingParams,
    width: int,
    statistics_top_k: int,
    at_end: bool,
    early_stop: EarlyStop | None = None,
) -> None:
    """Make a request for generated text ask for rows of its tokens.

    Args:
        width: likeliest candidates that a row names.
        statistics_top_k, early_stop: as in `SamplesMark`.
        at_end: nobody looks at a row before the answer's end.
    """
    params.logprobs = width
    # A stop string ends an answer in the API process, and the engine would not know the end.
    deferred = at_end and not params.stop
    set_mark(params, SamplesMark(statistics_top_k, deferred, early_stop))


def send_rows_early(params: SamplingParams) -> None:
    """Let the rows of a request that has asked for them come with their tokens."""
    mark = mark_of(params)
    assert isinstance(mark, SamplesMark)
    set_mark(params, msgspec.structs.replace(mark, deferred=False))


def mark_of(params: SamplingParams | None) -> Mark | None:
    """The mark that `set_mark` has written, or None."""
    if params is None or not params.extra_args:
        return None
    mark = params.extra_args.get(_ARG)
    return _decoded(mark) if isinstance(mark, bytes) else None


@lru_cache(maxsize=4096)  # looked up for every request in every step
def _decoded(mark: bytes) -> Mark:
    return msgspec.json.decode(mark, type=Mark)


def prompt_mark(params: SamplingParams | None) -> PromptMark | None:
    """The mark of a request whose prompt is scored, or None."""
    mark = mark_of(params)
    return mark if isinstance(mark, PromptMark) else None


def states_mark(params: SamplingParams | None) -> StatesMark | None:
    """The mark of a request whose prompt's hidden states are wanted, or None."""
    mark = mark_of(params)
    return mark if isinstance(mark, StatesMark) else None


def longest_hit(params: SamplingParams | None) -> int | None:
    """How many of a prompt's tokens may come from a cache; None where all but the last may.

    The engine has nothing to give of a position that it does not compute. A token's row is
    computed at the position before it, its hidden states at its own.
    """
    mark = mark_of(params)
    if isinstance(mark, PromptMark):
        return mark.first - 1
    return mark.first if isinstance(mark, StatesMark) else None


def sample_statistics_top_k(params: SamplingParams | None) -> int:
    """`SamplesMark.statistics_top_k` of a request; 0 for a request without that mark."""
    mark = mark_of(params)
    return mark.statistics_top_k if isinstance(mark, SamplesMark) else 0


def early_stop_of(params: SamplingParams | None) -> EarlyStop | None:
    """`SamplesMark.early_stop` of a request; None for a request without that mark."""
    mark = mark_of(params)
    return mark.early_stop if isinstance(mark, SamplesMark) else None
