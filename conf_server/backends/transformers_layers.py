"""The decoder layers of a transformers model, and what can be read from them with hooks.

What can be read is not looked up in a table of architectures. The model reads two tokens at start,
and what the hooks then find is held against what transformers itself calls the model's hidden
states, and against what attention weights have to look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from conf_server.settings import SettingsError

_PROBE: Final = 2  # tokens
_ROUNDING: Final = 0.02  # of weights in half precision, which sum to one

Take = Callable[[int, Tensor], None]
"""Called with the number of a layer and what it has made."""


def body_of(model: Any) -> Any:
    """The part of a model that makes the last hidden states, whose logits the rest makes.

    Raises:
        SettingsError: transformers does not name it.
    """
    # The name that a class gives for it is wrong in some, for example Llama4ForCausalLM.
    for body in (model.base_model, model.get_decoder(), getattr(model, "model", None)):
        if body is not None and body is not model:
            return body
    raise SettingsError(f"--model: {type(model).__name__} has no body apart from its head")


class DecoderLayers:
    """The decoder layers of one model.

    Attributes:
        count: N, how many there are.
        states: why hidden states cannot be read; None where they can.
        num_heads: of attention in a layer; 0 where no layer gives weights.
        attention: for each layer why its weights cannot be read, or None.
    """

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: of transformers. It reads two tokens, twice.
        """
        self._model = model
        self._body = body_of(model)
        self.count = int(model.config.get_text_config().num_hidden_layers)
        found = _outermost(self._body, self.count)
        self.num_heads = 0
        self.attention: tuple[str | None, ...] = ()
        if len(found) != 1:
            self.states: str | None = (
                f"{type(model).__name__} has {len(found)} lists of {self.count} layers"
            )
            return
        self._layers: Sequence[nn.Module] = list(found[0])
        self.states = self._states_obstacle()
        self._attention: dict[int, tuple[nn.Module, int]] = {}
        if self.states is None:
            self._probe_attention()

    @contextmanager
    def telling_states(self, layers: Sequence[int], take: Take) -> Iterator[None]:
        """While this holds, call `take` with hidden states (B, T, d) as they are made.

        Args:
            layers: 0 is the embeddings, i the output of layer i - 1; not the last one, which the
                model's body returns.
        """
        with ExitStack() as hooks:
            for layer in layers:
                hooks.callback(self._states_hook(layer, take).remove)
            yield

    @contextmanager
    def telling_attention(self, layers: Sequence[int], take: Take) -> Iterator[None]:
        """While this holds, attention is eager, and `take` is called with weights (B, H, T, T)."""
        with ExitStack() as stack:
            stack.enter_context(self._eager())
            for layer in layers:
                module, place = self._attention[layer]

                def hook(
                    _module: nn.Module, _args: Any, output: Any, layer: int = layer, i: int = place
                ) -> None:
                    take(layer, output[i])

                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _states_hook(self, layer: int, take: Take) -> Any:
        if layer == 0:

            def entered(_module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
                take(0, args[0] if args else kwargs["hidden_states"])

            return self._layers[0].register_forward_pre_hook(entered, with_kwargs=True)

        def left(_module: nn.Module, _args: Any, output: Any) -> None:
            take(layer, output[0] if isinstance(output, tuple) else output)

        return self._layers[layer - 1].register_forward_hook(left)

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Of transformers' implementations the eager one alone holds weights."""
        before = self._model.config._attn_implementation
        if before == "eager":
            yield
            return
        self._model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)

    # At start.

    def _states_obstacle(self) -> str | None:
        """Why the hooks do not see what transformers calls the hidden states; None if they do."""
        seen: dict[int, Tensor] = {}
        with self.telling_states(range(self.count), seen.__setitem__):
            named = self._read_probe(output_hidden_states=True).hidden_states
        if named is None or len(named) != self.count + 1:
            return f"transformers gives no hidden states of {type(self._model).__name__}"
        # Of the last layer the norm's output counts, which the body returns.
        wrong = [
            layer
            for layer in range(self.count)
            if layer not in seen or not torch.equal(seen[layer], named[layer])
        ]
        return f"the hidden states of layers {wrong} are not their outputs" if wrong else None

    def _probe_attention(self) -> None:
        """Find the module of each layer that gives weights, and where in its output they stand."""
        given: dict[int, list[tuple[nn.Module, int, Tensor]]] = {}

        def look(layer: int, module: nn.Module, output: Any) -> None:
            if isinstance(output, tuple):
                for place, part in enumerate(output):
                    if _is_weights(part):
                        given.setdefault(layer, []).append((module, place, part))

        with ExitStack() as stack:
            stack.enter_context(self._eager())
            for layer, whole in enumerate(self._layers):
                for module in whole.modules():

                    def hook(
                        module: nn.Module, _args: Any, output: Any, layer: int = layer
                    ) -> None:
                        look(layer, module, output)

                    stack.callback(module.register_forward_hook(hook).remove)
            self._read_probe()
        reasons = [
            self._attention_obstacle(layer, given.get(layer, [])) for layer in range(self.count)
        ]
        self.attention = tuple(reasons)

    def _attention_obstacle(
        self, layer: int, given: list[tuple[nn.Module, int, Tensor]]
    ) -> str | None:
        # A module may hand on what one within it has given.
        different = {id(weights): weights for _, _, weights in given}
        if len(different) != 1:
            kind = type(self._layers[layer]).__name__
            return f"{kind} gives {len(different) or 'no'} softmax attention weights"
        module, place, weights = given[0]
        heads = weights.shape[1]
        if self.num_heads not in (0, heads):
            return f"the layer has {heads} heads, and others have {self.num_heads}"
        self.num_heads = heads
        self._attention[layer] = module, place
        return None

    def _read_probe(self, **arguments: Any) -> Any:
        ids = torch.zeros((1, _PROBE), dtype=torch.int64, device=self._model.device)
        with torch.inference_mode():
            return self._body(input_ids=ids, use_cache=False, **arguments)


def _outermost(body: nn.Module, count: int) -> list[nn.ModuleList]:
    """Lists of so many modules that stand in no other such list."""
    found = [
        (name, module)
        for name, module in body.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    names = [name for name, _ in found]
    return [
        module
        for name, module in found
        if not any(name != other and name.startswith(f"{other}.") for other in names)
    ]


def _is_weights(part: Any) -> bool:
    """Whether this is (1, heads, 2, 2): probabilities with which two tokens look back.

    A row may sum to less than one, where a sink takes the rest.
    """
    if not isinstance(part, Tensor) or part.ndim != 4 or part.shape[2:] != (_PROBE, _PROBE):
        return False
    weights = part.float()
    inside = bool((weights >= 0).all()) and bool((weights.sum(-1) <= 1 + _ROUNDING).all())
    return (
        inside and bool((weights[:, :, 0, 1] == 0).all()) and bool((weights[:, :, 0, 0] > 0).all())
    )
