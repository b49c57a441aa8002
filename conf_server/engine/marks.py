"""How a request says, on its way through vLLM, what of ours it wants."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from vllm.sampling_params import SamplingParams

from conf_server.stats.row_layout import ColumnGroup, RowLayout

_ARG: Final = "conf_server"


class SamplesMark(msgspec.Struct, frozen=True, tag="samples"):
    """A request whose generated tokens' log-probabilities arrive as a `TokenTrace`.

    Attributes:
        statistics_top_k: above 0, the worker adds `TokenStatistic` columns, the confidence
            over that many candidates.
        deferred: nobody looks at a row before the answer's end.
    """

    statistics_top_k: int = 0
    deferred: bool = False

    def layout(self, logprobs: int) -> RowLayout:
        """The columns of the request's rows.

        Args:
            logprobs: candidates that its `SamplingParams.logprobs` asks vLLM for.
        """
        return RowLayout(logprobs, _groups(self.statistics_top_k))


class PromptMark(msgspec.Struct, frozen=True, tag="prompt"):
    """A request whose prompt's log-probabilities arrive as a `TokenTrace`.

    With `statistics_top_k` the worker makes the rows, from position `first` on, and
    `prompt_logprobs` stays unset; without it they are vLLM's own, and `first` is where
    the scheduler ends a cache hit.

    Attributes:
        statistics_top_k: as in `SamplesMark`.
        first: position of the first token that wants a row; 1 at least.
        candidates: how many of the likeliest tokens a row names.
        token_ids: the tokens that a row names instead, if any.
        ranks: whether the rows need ranks; 0 otherwise.
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


Mark = SamplesMark | PromptMark


def _groups(statistics_top_k: int) -> tuple[ColumnGroup, ...]:
    return (ColumnGroup.STATISTICS,) if statistics_top_k else ()


def set_mark(params: SamplingParams, mark: Mark) -> None:
    """Mark a request."""
    # Bytes: JSON cannot say them, so no client can mark a request, whatever it may put
    # into extra_args (/inference/v1/generate takes them whole).
    params.extra_args = {**(params.extra_args or {}), _ARG: msgspec.json.encode(mark)}


def ask_for_rows(params: SamplingParams, width: int, statistics_top_k: int, at_end: bool) -> None:
    """Make a request for generated text ask for rows of its tokens.

    Args:
        width: likeliest candidates that a row names.
        statistics_top_k: as in `SamplesMark`.
        at_end: nobody looks at a row before the answer's end.
    """
    params.logprobs = width
    # A stop string ends an answer in the API process, and the engine would not know the end.
    deferred = at_end and not params.stop
    set_mark(params, SamplesMark(statistics_top_k=statistics_top_k, deferred=deferred))


def mark_of(params: SamplingParams | None) -> Mark | None:
    """The mark that `set_mark` has left, if any."""
    if params is None or not params.extra_args:
        return None
    mark = params.extra_args.get(_ARG)
    return _decoded(mark) if isinstance(mark, bytes) else None


@lru_cache(maxsize=4096)  # asked for every request of every step
def _decoded(mark: bytes) -> Mark:
    return msgspec.json.decode(mark, type=Mark)


def prompt_mark(params: SamplingParams | None) -> PromptMark | None:
    """The mark of a forced text."""
    mark = mark_of(params)
    return mark if isinstance(mark, PromptMark) else None


def sample_statistics_top_k(params: SamplingParams | None) -> int:
    """Candidates for the confidence of a request's samples; 0 where it wants no statistics."""
    mark = mark_of(params)
    return mark.statistics_top_k if isinstance(mark, SamplesMark) else 0
