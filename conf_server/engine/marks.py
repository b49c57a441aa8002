"""How a request says, on its way through vLLM, what of ours it wants."""

from __future__ import annotations

from typing import Final, Literal

from vllm.sampling_params import SamplingParams

_ARG: Final = "conf_server"

Traced = Literal["samples", "prompt"]


def request_trace(params: SamplingParams, what: Traced, statistics_top_k: int = 0) -> None:
    """Mark a request: these log-probabilities shall arrive as a `TokenTrace`.

    Args:
        statistics_top_k: above 0, the worker adds `TokenStatistic` columns, the
            confidence over that many candidates.
    """
    # A dict: `vllm_xargs`, the clients' way into extra_args, cannot carry one.
    mark = {"trace": what, "statistics_top_k": statistics_top_k}
    params.extra_args = {**(params.extra_args or {}), _ARG: mark}


def traced(params: SamplingParams | None) -> Traced | None:
    """What `request_trace` marked this request for, if it did."""
    what = _mark(params).get("trace")
    return what if what in ("samples", "prompt") else None


def statistics_top_k(params: SamplingParams | None) -> int:
    """Candidates for the engine's confidence; 0 where no statistics are wanted."""
    value = _mark(params).get("statistics_top_k", 0)
    return value if isinstance(value, int) else 0


def _mark(params: SamplingParams | None) -> dict:
    if params is None or not params.extra_args:
        return {}
    mark = params.extra_args.get(_ARG)
    return mark if isinstance(mark, dict) else {}
