"""Which modules of a model count as its decoder layers, whose states are to be taken."""

import pytest
from torch import Tensor, nn
from vllm.model_executor.layers.attention import Attention

from conf_server.engine.worker.states import HiddenStates, LayersError


class Part(Attention):
    """Attention that computes nothing, and so needs no engine's configuration."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Part()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


class OtherLayer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x


def model(*lists: nn.ModuleList) -> nn.Module:
    return nn.ModuleDict({str(number): layers for number, layers in enumerate(lists)})


def layers(number: int, kind: type[nn.Module] = Layer) -> nn.ModuleList:
    return nn.ModuleList(kind() for _ in range(number))


def test_the_one_list_of_the_right_length_with_attention_is_taken() -> None:
    HiddenStates(model(layers(3), layers(2), layers(3, nn.Identity)), 3)


@pytest.mark.parametrize("found", [model(layers(2)), model(layers(3), layers(3))])
def test_a_model_without_one_such_list_is_refused(found: nn.Module) -> None:
    with pytest.raises(LayersError, match="lists of 3 layers with attention"):
        HiddenStates(found, 3)


def test_layers_that_take_their_input_by_another_name_are_refused() -> None:
    with pytest.raises(LayersError, match="OtherLayer takes no hidden_states"):
        HiddenStates(model(layers(3, OtherLayer)), 3)
