"""Hidden states of forced texts, taken in the worker while the model runs.

A request's mark names layers in the numbering of transformers' `hidden_states`: 0 is the
embeddings, i the output of decoder layer i - 1, and N, the number of layers, the last one's output
after the final norm. The model runner hands out the last kind itself. For the others there are
hooks on the decoder layers, which exist for the steps that need them and no longer. A hook does not
reach into compiled code, so such a step runs the model eagerly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.sampling_params import SamplingParams

from conf_server.engine.marks import StatesMark, states_mark
from conf_server.engine.worker.prompt_rows import PromptChunk


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
    """

    mark: StatesMark
    next_position: int
    parts: dict[int, list[Tensor]] = field(default_factory=dict)

    def restart(self) -> None:
        self.next_position = self.mark.first
        self.parts.clear()

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
        stacked = torch.stack([torch.cat(self.parts[layer]) for layer in self.mark.layers])
        if self.mark.pooling == "mean":
            stacked = stacked / (prompt_len - self.mark.first)
        return stacked.float()


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


class HiddenStates:
    """The hidden states that the marked requests of one worker ask for.

    Attributes:
        num_layers: N, the number of decoder layers.
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
        self._layers = decoder_layers(model, num_layers)
        if "hidden_states" not in inspect.signature(self._layers[0].forward).parameters:
            # Found out here, and not within a step, where it would end the engine.
            raise LayersError(f"{type(self._layers[0]).__name__} takes no hidden_states")
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
    def taking(self, chunks: Sequence[PromptChunk]) -> Iterator[None]:
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
            yield

    def finish(self, chunks: Sequence[PromptChunk], hidden_states: Tensor) -> dict[str, Tensor]:
        """Take the last layer's states of a step, and return what is complete with it.

        Args:
            chunks: as for `taking`, for the same step.
            hidden_states: (tokens of the step, d), after the final norm.

        Returns:
            For each request whose prompt is complete: (layers, n, d) float32 on the CPU. A
            request of which a position is missing, because it came from a cache, gets none.
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
                    finished[chunk.req_id] = taken.states(chunk.prompt_len)
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
            return self._layers[0].register_forward_pre_hook(self._embedded, with_kwargs=True)
        return self._layers[layer - 1].register_forward_hook(self._output_of(layer))

    def _embedded(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        self._keep(0, given["hidden_states"], given.get("residual"))

    def _output_of(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden, residual = output[:2] if isinstance(output, tuple) else (output, None)
            self._keep(layer, hidden, residual)

        return hook

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
