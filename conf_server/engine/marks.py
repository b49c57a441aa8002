"""How a request says, on its way through vLLM, what of ours it wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from vllm.sampling_params import SamplingParams

_ARG: Final = "conf_server"


@dataclass(frozen=True)
class SamplesMark:
    """A request whose generated tokens' log-probabilities arrive as a `TokenTrace`.

    Attributes:
        statistics_top_k: above 0, the worker adds `TokenStatistic` columns, the confidence
            over that many candidates.
        deferred: nobody looks at a row before the answer's end.
    """

    statistics_top_k: int = 0
    deferred: bool = False


@dataclass(frozen=True)
class PromptMark:
    """A request whose prompt's log-probabilities arrive as a `TokenTrace`.

    With `statistics_top_k` the worker makes the rows, from position `first` on, and
    `prompt_logprobs` stays unset; without it they are vLLM's own.

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
    token_ids: Sequence[int] = ()
    ranks: bool = False

    @property
    def width(self) -> int:
        """Tokens that a row names beside its own."""
        return len(self.token_ids) or self.candidates


Mark = SamplesMark | PromptMark
_KINDS: Final[dict[str, Any]] = {"samples": SamplesMark, "prompt": PromptMark}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def set_mark(params: SamplingParams, mark: Mark) -> None:
    """Mark a request."""
    # A dict: `vllm_xargs`, the clients' way into extra_args, cannot carry one.
    fields = {"trace": _NAMES[type(mark)], **asdict(mark)}
    params.extra_args = {**(params.extra_args or {}), _ARG: fields}


def mark_of(params: SamplingParams | None) -> Mark | None:
    """The mark that `set_mark` has left, if any."""
    if params is None or not params.extra_args:
        return None
    fields = params.extra_args.get(_ARG)
    if not isinstance(fields, dict):
        return None
    fields = dict(fields)
    return _KINDS[fields.pop("trace")](**fields)


def prompt_mark(params: SamplingParams | None) -> PromptMark | None:
    """The mark of a request whose prompt rows the worker makes."""
    mark = mark_of(params)
    return mark if isinstance(mark, PromptMark) and mark.statistics_top_k else None


def sample_statistics_top_k(params: SamplingParams | None) -> int:
    """Candidates for the confidence of a request's samples; 0 where it wants no statistics."""
    # Asked for every request of every step: no objects here.
    if params is None or not params.extra_args:
        return 0
    fields = params.extra_args.get(_ARG)
    if not isinstance(fields, dict) or fields.get("trace") != "samples":
        return 0
    return int(fields["statistics_top_k"])
