"""Hidden states on their way from a worker to an API process.

They travel as vLLM's prompt log-probabilities do, with a prompt's last step. vLLM carries tensors
of any shape there, and the output processor of an API process knows by the request's mark that
these are no log-probabilities.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors


def as_prompt_tensors(states: Tensor) -> LogprobsTensors:
    """
    Args:
        states: (layers, n, d) float32 on the CPU.
    """
    nothing = torch.empty((0, 1), dtype=torch.int32)
    return LogprobsTensors(nothing, states, torch.empty(0, dtype=torch.int32))


def states_of(tensors: LogprobsTensors) -> NDArray[np.float32]:
    """(layers, n, d): the inverse of `as_prompt_tensors`."""
    return tensors.logprobs.numpy()
