"""Hidden states and attention weights on their way from a worker to an API process.

They travel as vLLM's prompt log-probabilities do, with a prompt's last step. vLLM carries tensors
of any shape there, and the output processor of an API process knows by the request's mark that
these are no log-probabilities. Hidden states stand where log-probabilities would. Attention weights
stand one behind the other where the ranks would, and their shapes where the token ids would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors

from conf_server.stats.forced import ForcedAttention


@dataclass(frozen=True)
class AttentionTensors:
    """The fields of `ForcedAttention`, as a worker has them: float32 on the CPU."""

    weights: Tensor
    context_mass: Tensor | None
    last: Tensor | None


@dataclass(frozen=True)
class StatesTensors:
    """What a worker has taken of one request, on the CPU.

    Attributes:
        states: (layers, n, d) float32.
    """

    states: Tensor
    attention: AttentionTensors | None = None


@dataclass(frozen=True)
class TakenStates:
    """The same in an API process."""

    states: NDArray[np.float32]
    attention: ForcedAttention | None = None


def as_prompt_tensors(taken: StatesTensors) -> LogprobsTensors:
    """What travels."""
    attention = taken.attention
    if attention is None:
        nothing = torch.empty((0, 4), dtype=torch.int32)
        return LogprobsTensors(nothing, taken.states, torch.empty(0))
    given = [attention.weights, attention.context_mass, attention.last]
    tensors = [torch.empty((0, 0, 0, 0)) if one is None else one for one in given]
    shapes = [[*(1,) * (4 - one.dim()), *one.shape] for one in tensors]
    flat = torch.cat([one.flatten() for one in tensors])
    return LogprobsTensors(torch.tensor(shapes, dtype=torch.int32), taken.states, flat)


def taken_states(tensors: LogprobsTensors) -> TakenStates:
    """The inverse of `as_prompt_tensors`."""
    shapes = tensors.logprob_token_ids.tolist()
    states = tensors.logprobs.numpy()
    if not shapes:
        return TakenStates(states)
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = tensors.selected_token_ranks.numpy()
    near, mass, last = (
        part.reshape(shape)
        for part, shape in zip(np.split(flat, np.cumsum(sizes)[:-1]), shapes, strict=True)
    )
    return TakenStates(
        states,
        ForcedAttention(near, mass[0] if len(mass) else None, last[0] if len(last) else None),
    )
