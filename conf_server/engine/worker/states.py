"""Hidden states and attention weights of forced texts, taken in the worker while the model runs.

A request's mark names layers in the numbering of transformers' `hidden_states`: 0 is the
embeddings, i the output of decoder layer i - 1, and N, the number of layers, the last one's output
after the final norm. The model runner hands out the last kind itself. For the others there are
hooks on the decoder layers, which exist for the steps that need them and no longer. A hook does not
reach into compiled code, so such a step runs the model eagerly. Attention weights are taken by
`LayerAttention`, which needs no hook.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.sampling_params import SamplingParams

from conf_server.engine.marks import StatesMark, states_mark
from conf_server.engine.states_wire import AttentionTensors, StatesTensors
from conf_server.engine.worker.attention import LayerAttention, Rows, Weights
from conf_server.engine.worker.prompt_rows import PromptChunk

Blocks = Callable[[str, str], Tensor]
"""(request id, name of an attention layer) -> (n,) int64, the request's blocks in its cache."""
Gather = Callable[[Tensor, int], Tensor]
"""Joins what the workers of a tensor-parallel group hold, along a dimension."""


class LayersError(ValueError):
    """The model's decoder layers cannot be told from its other modules."""


def decoder_layers(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The list of the model's decoder layers: the only one of this length with attention in it.

    Raises:
        LayersError: there is none, or more than one.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == num_layers
        and any(isinstance(part, Attention) for part in module.modules())
    ]
    if len(found) != 1:
        raise LayersError(
            f"{type(model).__name__} has {len(found)} lists of {num_layers} layers with attention"
        )
    return found[0]


@dataclass
class _Taken:
    """What has been taken of one request so far.

    Attributes:
        next_position: the position of the prompt whose states come next.
        parts: by layer, on the CPU: blocks of rows, or one sum of rows, in float64.
        weights: by layer: those of blocks of rows.
        readable: whether the keys in the cache were those that the layers have computed.
    """

    mark: StatesMark
    next_position: int
    parts: dict[int, list[Tensor]] = field(default_factory=dict)
    weights: dict[int, list[Weights]] = field(default_factory=dict)
    readable: bool = True

    def restart(self) -> None:
        self.next_position = self.mark.first
        self.parts.clear()
        self.weights.clear()
        self.readable = True

    def add(self, layer: int, rows: Tensor, reaches_end: bool) -> None:
        """
        Args:
            rows: (m, d), the states of m >= 1 more positions.
            reaches_end: the last of them is the prompt's last position.
        """
        if self.mark.pooling == "none":
            self.parts.setdefault(layer, []).append(rows.float().cpu())
        elif self.mark.pooling == "mean":
            total = rows.sum(0, keepdim=True, dtype=torch.float32).double().cpu()
            before = self.parts.get(layer)
            self.parts[layer] = [total if before is None else before[0] + total]
        elif reaches_end:
            self.parts[layer] = [rows[-1:].float().cpu()]

    def states(self, prompt_len: int) -> Tensor:
        """(layers, n, d) float32, in the order in which the mark names the layers."""
        if not self.mark.layers:
            return torch.empty((0, 0, 0))
        stacked = torch.stack([torch.cat(self.parts[layer]) for layer in self.mark.layers])
        if self.mark.pooling == "mean":
            stacked = stacked / (prompt_len - self.mark.first)
        return stacked.float()

    def attention(self, gather: Gather) -> AttentionTensors | None:
        """The weights of all heads; all workers of a tensor-parallel group have to ask for them."""
        wanted = self.mark.attention
        if wanted is None:
            return None
        parts = [self.weights[layer] for layer in wanted.layers]

        def joined(name: str) -> Tensor:
            rows = (
                torch.cat(
                    [getattr(part, name) for part in layer if getattr(part, name) is not None]
                )
                for layer in parts
            )
            return gather(torch.stack(list(rows)), 1 if name == "last" else 2)

        return AttentionTensors(
            joined("near"),
            joined("mass") if wanted.context is not None else None,
            joined("last") if wanted.last_on is not None else None,
        )


@dataclass(frozen=True)
class _Span:
    """The rows of a step that one request wants."""

    taken: _Taken
    chunk: PromptChunk
    begin: int
    end: int

    @property
    def rows(self) -> slice:
        """Where they are in the step's hidden states."""
        return slice(
            self.chunk.offset + self.begin - self.chunk.start,
            self.chunk.offset + self.end - self.chunk.start,
        )

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The decoder layers whose weights are wanted."""
        attention = self.taken.mark.attention
        return () if attention is None else attention.layers


class HiddenStates:
    """The hidden states and attention weights that the marked requests of one worker ask for.

    Attributes:
        num_layers: N, the number of decoder layers.
        layers: the decoder layers.
        attention: by the layer's number, that of layers whose weights can be had. Whoever makes
            this object fills it in.
        gather: joins the heads of all workers, likewise.
    """

    def __init__(self, model: nn.Module, num_layers: int) -> None:
        """
        Args:
            model: the model as it runs, without wrappers.

        Raises:
            LayersError: as `decoder_layers`.
        """
        self.num_layers = num_layers
        self._model = model
        self.layers = decoder_layers(model, num_layers)
        if "hidden_states" not in inspect.signature(self.layers[0].forward).parameters:
            # Found out here, and not within a step, where it would end the engine.
            raise LayersError(f"{type(self.layers[0]).__name__} takes no hidden_states")
        self.attention: dict[int, LayerAttention] = {}
        self.gather: Gather = lambda own, _dim: own
        self._requests: dict[str, _Taken] = {}
        self._spans: list[_Span] = []

    def __contains__(self, req_id: str) -> bool:
        return req_id in self._requests

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add_request(self, req_id: str, params: SamplingParams | None) -> None:
        """Remember a new request, if its mark asks for hidden states."""
        if mark := states_mark(params):
            self._requests[req_id] = _Taken(mark, mark.first)

    def remove_request(self, req_id: str) -> None:
        """Forget a request, whether or not it was remembered."""
        self._requests.pop(req_id, None)

    @contextmanager
    def taking(self, chunks: Sequence[PromptChunk], blocks: Blocks) -> Iterator[None]:
        """Take what the step's chunks want while the model runs within this context.

        Args:
            chunks: those of requests that this object remembers.
        """
        self._spans = [span for chunk in chunks if (span := self._span(chunk)) is not None]
        inner = {layer for span in self._spans for layer in span.taken.mark.layers}
        inner.discard(self.num_layers)
        with ExitStack() as hooks:
            if inner:
                hooks.callback(self._model.register_forward_pre_hook(_run_eagerly).remove)
            for layer in inner:
                hooks.callback(self._hook(layer).remove)
            for layer in {layer for span in self._spans for layer in span.attention_layers}:
                hooks.callback(self.attention[layer].watch(partial(self._weigh, layer, blocks)))
            yield

    def finish(
        self, chunks: Sequence[PromptChunk], hidden_states: Tensor
    ) -> dict[str, StatesTensors]:
        """Take the last layer's states of a step, and return what is complete with it.

        Args:
            chunks: as for `taking`, for the same step.
            hidden_states: (tokens of the step, d), after the final norm.

        Returns:
            For each request whose prompt is complete. A request of which a position is missing,
            because it came from a cache, gets nothing, nor does one whose keys were not readable.
        """
        self._keep(self.num_layers, hidden_states, None)
        for span in self._spans:
            span.taken.next_position = span.end
        self._spans = []
        finished = {}
        for chunk in chunks:
            if chunk.is_last:
                taken = self._requests.pop(chunk.req_id)
                if taken.next_position == chunk.prompt_len:
                    attention = taken.attention(self.gather)
                    if taken.readable:
                        states = taken.states(chunk.prompt_len)
                        finished[chunk.req_id] = StatesTensors(states, attention)
        return finished

    def _span(self, chunk: PromptChunk) -> _Span | None:
        """The part of a chunk whose states are wanted, or None."""
        taken = self._requests[chunk.req_id]
        begin = max(chunk.start, taken.mark.first)
        end = min(chunk.start + chunk.num_tokens, chunk.prompt_len)
        if begin == taken.mark.first:
            # The request has begun, maybe a second time: after a preemption it starts again.
            taken.restart()
        if begin >= end or begin != taken.next_position:
            return None
        return _Span(taken, chunk, begin, end)

    def _hook(self, layer: int) -> Any:
        """A hook that takes the states of a layer below the last."""
        if layer == 0:
            return self.layers[0].register_forward_pre_hook(self._embedded, with_kwargs=True)
        return self.layers[layer - 1].register_forward_hook(self._output_of(layer))

    def _embedded(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        self._keep(0, given["hidden_states"], given.get("residual"))

    def _output_of(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden, residual = output[:2] if isinstance(output, tuple) else (output, None)
            self._keep(layer, hidden, residual)

        return hook

    def _weigh(self, layer: int, blocks: Blocks, query: Tensor, key: Tensor) -> None:
        """Take the weights of a layer that has just run; queries and keys are the step's."""
        attention = self.attention[layer]
        for span in self._spans:
            mark, chunk = span.taken.mark.attention, span.chunk
            if mark is None or layer not in mark.layers:
                continue
            is_last = span.end == chunk.prompt_len
            rows = Rows(span.begin, span.end, is_last, blocks(chunk.req_id, attention.name))
            own = key[chunk.offset : chunk.offset + span.end - chunk.start]
            keys = attention.keys(rows)
            span.taken.readable &= keys.hold(chunk.start, own)
            weights = attention.weights(mark, rows, keys, query[span.rows])
            span.taken.weights.setdefault(layer, []).append(weights)

    def _keep(self, layer: int, hidden: Tensor, residual: Tensor | None) -> None:
        """
        Args:
            hidden, residual: (tokens of the step, d); their sum is the layer's output. Models of
                transformers' backend have a batch dimension of one before.
        """
        wanting = [span for span in self._spans if layer in span.taken.mark.layers]
        if not wanting:
            return
        hidden = hidden.reshape(-1, hidden.shape[-1])
        if residual is not None:
            residual = residual.reshape(-1, residual.shape[-1])
        for span in wanting:
            rows = hidden[span.rows].float()
            if residual is not None:
                rows = rows + residual[span.rows].float()
            span.taken.add(layer, rows, span.end == span.chunk.prompt_len)


def _run_eagerly(_module: nn.Module, _args: Any) -> None:
    get_forward_context().skip_compiled = True
