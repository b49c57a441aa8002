"""vLLM's own log-probabilities, a dict of `Logprob` for each token, as a `TokenTrace`.

They come from an output processor of vLLM's: in a stock server with the plugin, and for
requests that ask for the log-probabilities of the whole vocabulary. A `FlatLogprobs` makes such a
dict of each of its rows.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from vllm.logprobs import Logprob

from conf_server.stats.trace import TokenTrace


def append_stock_rows(
    trace: TokenTrace, token_ids: Iterable[int], rows: Iterable[Mapping[int, Logprob] | None]
) -> None:
    """Append one row for each token: the token itself, then the `trace.width` likeliest tokens.

    vLLM's dict holds the sampled token once and first, whatever its rank. So the candidates
    are sorted by their log-probability here; those that tie keep vLLM's order.

    Args:
        rows: a list or a `FlatLogprobs`, where a token without a row has an empty one.

    Raises:
        ValueError: a row is missing, or has fewer candidates than the trace is wide.
    """
    for token_id, row in zip(token_ids, rows, strict=True):
        if row is None or token_id not in row:
            raise ValueError(f"no log-probabilities for token {token_id}")
        best = sorted(row.items(), key=lambda item: -item[1].logprob)[: trace.width]
        own = row[token_id]
        ids = np.array([[token_id, *(candidate for candidate, _ in best)]], np.int32)
        logprobs = np.array([[own.logprob, *(entry.logprob for _, entry in best)]], np.float32)
        trace.append(ids, logprobs, np.array([own.rank or 0], np.int32))
