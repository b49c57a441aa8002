"""Forward passes over batches of texts: rows, hidden states and attention weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, StaticCache

from conf_server.backends.transformers_layers import DecoderLayers, body_of
from conf_server.backends.transformers_states import TakenText
from conf_server.engine.worker.token_rows import token_rows
from conf_server.settings import SettingsError
from conf_server.stats.forced import ForcedRows, ForcedStates, ForcedText, WantedRows, WantedStates
from conf_server.stats.trace import TraceRows

_ROWS_AT_ONCE: Final = {"cpu": 64, "cuda": 256}
"""How many rows of logits are in memory at a time: 256 rows of 150,000 float32 are 154 MB. On the
CPU the statistics of so many hold Python's lock, and the event loop waits for it."""

_ROUNDING: Final = 0.05  # of logits, as a share of the largest, in half precision


@dataclass(frozen=True)
class ForcedWork:
    """A text to read, and what is wanted of it."""

    text: ForcedText
    wanted: WantedRows | WantedStates

    @property
    def has_attention(self) -> bool:
        """Whether attention weights are wanted."""
        return isinstance(self.wanted, WantedStates) and self.wanted.attention is not None

    def __len__(self) -> int:
        return len(self.text.token_ids)


class ForwardPasses:
    """Runs a model. To be used by one thread at a time.

    Attributes:
        body: what makes the last hidden states of the model.
        vocab_size: V, the columns of the model's logits.
        hidden_size: d, of a hidden state.
    """

    def __init__(self, model: Any) -> None:
        """
        Args:
            model: it reads a few tokens now, where its weights are. They may be elsewhere later.
        """
        self.model = model
        self.body = body_of(model)
        self.layers = DecoderLayers(model)
        takes = inspect.signature(model.forward).parameters
        # Models of old do not know it, and compute the logits of all positions.
        self._last_logits = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._head: Callable[[Tensor], Tensor] = self._whole_head
        self._probe_head()  # may find a shorter way

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @torch.inference_mode()
    def forced(self, works: Sequence[ForcedWork]) -> list[ForcedRows | ForcedStates]:
        """Read texts in one pass, each padded on its right to the longest.

        A text sees none of the padding, so that its numbers depend on its company by no more than
        float rounding.
        """
        states = [
            TakenText(work.text, work.wanted) if isinstance(work.wanted, WantedStates) else None
            for work in works
        ]
        last = self._body(works, states)
        rows = self._all_rows(works, last)
        found: list[ForcedRows | ForcedStates] = []
        for number, taken in enumerate(states):
            if taken is None:
                found.append(ForcedRows(rows[number], 0))
            else:
                taken.take_states(self.layers.count, last[number])
                found.append(ForcedStates(taken.states(), 0, taken.attention()))
        return found

    def logits(self, rows: Tensor) -> Tensor:
        """(n, V) float32 of last hidden states (n, d)."""
        return self._head(rows).float()

    def next_logits(self, ids: Tensor, cache: Cache) -> Tensor:
        """(B, V) float32, of what comes after more tokens (B, T); their keys go into the cache."""
        output = self.model(
            input_ids=ids, past_key_values=cache, use_cache=True, **self._last_logits
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def new_cache(self, longest: int | None) -> Cache:
        """An empty cache.

        Args:
            longest: tokens for which it is allocated at once; None for one that grows.
        """
        config = self.model.config
        if longest is None:
            return DynamicCache(config=config)
        return StaticCache(config, max_cache_len=longest)

    @torch.inference_mode()
    def static_cache_obstacle(self) -> str | None:
        """Why the model cannot use an allocated cache; None if it can. It reads a few tokens."""
        ids = torch.zeros((1, 2), dtype=torch.int64, device=self.device)
        growing, static = self.new_cache(None), self.new_cache(2 * ids.shape[1])
        try:
            for cache in (growing, static):
                self.next_logits(ids, cache)
            with_growing, with_static = (
                self.next_logits(ids[:, :1], cache) for cache in (growing, static)
            )
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            return str(error)
        same = torch.allclose(with_growing, with_static, rtol=1e-2, atol=1e-2)
        return None if same else "its logits are others with it"

    # Below, B texts are padded to T tokens.

    def _body(self, works: Sequence[ForcedWork], states: Sequence[TakenText | None]) -> Tensor:
        """(B, T, d), after the final norm; what is wanted of the layers is taken on the way."""
        ids, mask = self._padded([work.text.token_ids for work in works])
        taken = [(number, text) for number, text in enumerate(states) if text is not None]

        def take_states(layer: int, made: Tensor) -> None:
            for number, text in taken:
                text.take_states(layer, made[number])

        def take_weights(layer: int, made: Tensor) -> None:
            for number, text in taken:
                text.take_weights(layer, made[number])

        inner = {i for _, text in taken for i in text.wanted.layers} - {self.layers.count}
        weighed = {i for _, text in taken for i in text.attention_layers}
        with ExitStack() as stack:
            if inner:
                stack.enter_context(self.layers.telling_states(sorted(inner), take_states))
            if weighed:
                stack.enter_context(self.layers.telling_attention(sorted(weighed), take_weights))
            output = self.body(input_ids=ids, attention_mask=mask, use_cache=False)
        last: Tensor = output[0]
        return last

    def _padded(self, texts: Sequence[list[int]]) -> tuple[Tensor, Tensor | None]:
        """Ids (B, T), and the mask of those that count; None if all do."""
        longest = max(map(len, texts))
        ids = np.zeros((len(texts), longest), np.int64)
        mask = np.zeros((len(texts), longest), np.int64)
        for number, text in enumerate(texts):
            ids[number, : len(text)] = text
            mask[number, : len(text)] = 1
        on_device = torch.from_numpy(ids).to(self.device)
        return on_device, None if mask.all() else torch.from_numpy(mask).to(self.device)

    def _all_rows(self, works: Sequence[ForcedWork], last: Tensor) -> dict[int, TraceRows]:
        """Rows by the text's number. Texts of which the same is wanted share their blocks."""
        groups: dict[WantedRows, list[int]] = {}
        for number, work in enumerate(works):
            if isinstance(work.wanted, WantedRows):
                groups.setdefault(work.wanted, []).append(number)
        found: dict[int, TraceRows] = {}
        for wanted, numbers in groups.items():
            texts = [works[number].text for number in numbers]
            counts = [len(text.token_ids) - text.first_scored for text in texts]
            before = torch.cat(
                [
                    last[number, text.first_scored - 1 : len(text.token_ids) - 1]
                    for number, text in zip(numbers, texts, strict=True)
                ]
            )
            scored = [i for text in texts for i in text.token_ids[text.first_scored :]]
            rows = self.rows(before, torch.tensor(scored, dtype=torch.int64), wanted)
            start = 0
            for number, count in zip(numbers, counts, strict=True):
                found[number] = rows.part(start, start + count)
                start += count
        return found

    def rows(self, before: Tensor, targets: Tensor, wanted: WantedRows) -> TraceRows:
        """Rows of n tokens; logits exist for a few of them at a time.

        Args:
            before: (n, d), the last hidden states of the positions before.
            targets: (n,) int64, the tokens.
        """
        targets = targets.to(self.device)
        size = _ROWS_AT_ONCE[self.device.type]
        parts = [
            made_rows(self.logits(before[block]), targets[block], wanted)
            for start in range(0, max(1, len(before)), size)
            for block in [slice(start, start + size)]
        ]
        return joined_rows(parts)

    # From hidden states to logits.

    def _whole_head(self, rows: Tensor) -> Tensor:
        """Logits by the model's own forward, in which `rows` take the place of its body's output.

        Some models do more than multiply: they cap logits, or scale them. The body still runs,
        over a single token.
        """

        def replaced(_module: nn.Module, _args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (rows[None], *output[1:])
            return type(output)(last_hidden_state=rows[None])

        ids = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
        hook = self.body.register_forward_hook(replaced)
        try:
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            hook.remove()
        return logits

    @torch.inference_mode()
    def _probe_head(self) -> None:
        """Find out sizes, and whether logits are more than the product with an embedding."""
        ids = torch.arange(2, device=self.device)[None]
        last = self.body(input_ids=ids, use_cache=False)[0]
        logits = self.model(input_ids=ids, use_cache=False).logits
        self.vocab_size = logits.shape[-1]
        self.hidden_size = last.shape[-1]
        head = self.model.get_output_embeddings()
        if head is not None and torch.equal(head(last), logits):
            self._head = head
            return
        off = (self._whole_head(last[0]) - logits[0]).abs().max() / logits.abs().max()
        if not off < _ROUNDING:
            kind = type(self.model).__name__
            raise SettingsError(f"--model: {kind} makes its logits of more than hidden states")


def made_rows(logits: Tensor, targets: Tensor, wanted: WantedRows) -> TraceRows:
    """Rows of n tokens in the engine's shape.

    Args:
        logits: (n, V) float32, raw.
        targets: (n,) int64, on the same device.
    """
    named = None
    if wanted.token_ids:
        named = torch.tensor(wanted.token_ids, dtype=torch.int64, device=logits.device)
    rows = token_rows(
        logits,
        targets,
        torch.full((len(targets),), wanted.top_k, dtype=torch.int32, device=logits.device),
        0 if wanted.token_ids else wanted.width,
        named,
        wanted.ranks or not wanted.statistics,
    )
    return TraceRows(
        rows.ids.cpu().numpy(),
        rows.logprobs.cpu().numpy(),
        rows.ranks.int().cpu().numpy(),
        rows.statistics.cpu().numpy() if wanted.statistics else None,
    )


def joined_rows(parts: Sequence[TraceRows]) -> TraceRows:
    """The rows of one or more parts, one after another."""
    if len(parts) == 1:
        return parts[0]
    statistics = [part.statistics for part in parts if part.statistics is not None]
    return TraceRows(
        np.concatenate([part.named_ids for part in parts]),
        np.concatenate([part.named_logprobs for part in parts]),
        np.concatenate([part.ranks for part in parts]),
        np.concatenate(statistics) if statistics else None,
    )
