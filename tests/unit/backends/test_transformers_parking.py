"""Weights that come and go. On a GPU, e2e/test_gpu reads texts with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conf_server.backends.transformers_parking import ParkedWeights
from conf_server.refusal import RefusalError


class Tied(nn.Module):
    """One weight with two names, one of its own, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(2))


def test_weights_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # A machine without a GPU has no second memory: what is moved is a copy, and negative.
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: -tensor.clone())
    weights = ParkedWeights(model, torch.device("cpu"))
    for _ in range(2):
        weights.move(True)
        assert model.head.weight is model.embedding.weight
        for name, value in model.state_dict().items():
            assert torch.equal(value, -before[name])
        weights.move(False)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])


def test_where_there_is_no_room_nothing_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tied()
    places = [tensor.data_ptr() for tensor in model.state_dict().values()]
    moved = 0

    def to(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        nonlocal moved
        moved += 1
        if moved == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    with pytest.raises(RefusalError) as refused:
        ParkedWeights(model, torch.device("cpu")).move(True)
    assert refused.value.status == 503
    assert moved == 2
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == places
