"""Whether the engine's rows hold what a request has asked for."""

from typing import Any


def fit(ids: Any, logprobs: Any, width: int, num_statistics: int) -> bool:
    """Whether rows can be a request's own.

    A step's rows are as wide as its widest request, and can be narrower than another's:
    in vLLM's own V1 sampler the longest `logprob_token_ids` of a step decides for all, and
    its rejection sampler adds no statistics.

    Args:
        ids: (n, columns) array or tensor, the tokens that the rows name.
        logprobs: (n, columns + statistics).
        width: candidates that the request has asked for.
        num_statistics: how many statistics it has asked for.
    """
    columns = ids.shape[1]
    return columns > width and num_statistics in (0, logprobs.shape[1] - columns)
