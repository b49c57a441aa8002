"""The row of a token, from the raw logits it was chosen by: named tokens, rank, statistics.

Torch and numpy alone, so that models run by other engines than vLLM have the same rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from conf_server.engine.worker.token_statistics import token_statistics
from conf_server.stats.columns import TokenStatistic


class TokenRows(NamedTuple):
    """Rows of n tokens, on the device of their logits.

    Attributes:
        ids: (n, c) int32, the own tokens, then the likeliest, then those that are named.
        logprobs: (n, c) float32, theirs, in nats.
        ranks: (n,) int64, the own tokens' ranks, 1 = likeliest; 0 if nobody wants them.
        statistics: (n, s) float32, the columns of `TokenStatistic`.
    """

    ids: Tensor
    logprobs: Tensor
    ranks: Tensor
    statistics: Tensor


def token_rows(
    logits: Tensor,
    targets: Tensor,
    top_k: Tensor,
    candidates: int,
    named: Tensor | None,
    ranks: bool,
) -> TokenRows:
    """
    Args:
        logits: (n, V).
        targets: (n,) int64, the rows' own tokens.
        top_k: (n,) int32, how many candidates each row's confidence averages.
        candidates: how many of the likeliest tokens to name.
        named: int64, token ids that all rows name beside; None for none.
        ranks: whether to compute the ranks.
    """
    n, device = len(logits), logits.device
    statistics = token_statistics(logits, top_k)
    own = logits.gather(1, targets.unsqueeze(1))
    ids, values = [targets.unsqueeze(1)], [own]
    if candidates:
        best = logits.topk(candidates, dim=1)
        ids.append(best.indices)
        values.append(best.values)
    if named is not None:
        everywhere = named.expand(n, -1)
        ids.append(everywhere)
        values.append(logits.gather(1, everywhere))
    if ranks:
        places = (logits > own).sum(dim=1) + 1
    else:
        places = torch.zeros(n, dtype=torch.int64, device=device)
    logprobs = relative_logprobs(logits, torch.cat(values, dim=1), statistics)
    return TokenRows(torch.cat(ids, dim=1).int(), logprobs, places, statistics)


def relative_logprobs(logits: Tensor, values: Tensor, statistics: Tensor) -> Tensor:
    """Log-probabilities of some logits, computed from that of the row's largest logit.

    Equal logits get log-probabilities that are equal to the bit.

    Args:
        logits: (n, V).
        values: (n, w), some of each row's logits.
        statistics: (n, s), the columns of `TokenStatistic` for these rows.

    Returns:
        (n, w) float32.
    """
    largest = logits.amax(dim=1, keepdim=True).float()
    first = statistics[:, TokenStatistic.LOGPROB_1ST].unsqueeze(1)
    return first + (values.float() - largest)
