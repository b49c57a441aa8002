"""Answers to one prompt, token by token: the decoding loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from conf_server.backends.answer_text import AnswerText
from conf_server.backends.streaming import Piece
from conf_server.backends.transformers_forward import ForwardPasses, made_rows
from conf_server.backends.transformers_memory import is_out_of_memory, no_memory, release
from conf_server.backends.transformers_sampling import (
    Sampling,
    TokenChooser,
    seeded_generators,
    unless_it_fails,
)
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.early_stop import STOP_REASON, ConfidenceWindow, EarlyStop
from conf_server.stats.forced import WantedRows
from conf_server.stats.trace import TraceRows

NO_MEMORY_FOR: Final = "an answer"


@dataclass
class _Sample:
    """One answer.

    Attributes:
        tokens: so far.
        window: its last confidences, where it may be ended early.
    """

    index: int
    generator: torch.Generator
    text: AnswerText
    tokens: list[int] = field(default_factory=list)
    window: ConfidenceWindow | None = None


@dataclass(frozen=True)
class DecodingModel:
    """What decoding needs of a loaded model.

    Attributes:
        tokenizer: of the model thread's own.
        end_tokens: at which an answer ends.
        static_cache: whether keys and values are allocated for the longest answer at once.
        chunk: tokens of a prompt that are read in one turn.
    """

    passes: ForwardPasses
    tokenizer: Any
    end_tokens: tuple[int, ...]
    static_cache: bool
    chunk: int


class _Group:
    """Answers that are decoded together, in one cache. All have the same number of tokens.

    The prompt is read once, and then its keys and values are copied for each answer. Where some
    tokens of the answers are known already, because a larger group had no memory, all of it is
    read again, for each answer.
    """

    def __init__(
        self, model: DecodingModel, prompt: Sequence[int], samples: list[_Sample], room: int
    ) -> None:
        """
        Args:
            room: tokens that an answer may have.
        """
        self._model = model
        self._count = len(samples)
        rows = [[*prompt, *sample.tokens] for sample in samples]
        device = model.passes.device
        self.ids = torch.tensor(rows, dtype=torch.int64, device=device)
        self._is_one = not samples[0].tokens
        self._read = 0
        self._cache = model.passes.new_cache(len(prompt) + room if model.static_cache else None)
        # A recurrent state is computed for a whole text, or goes on by a single token.
        recurrent = any(
            isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self._cache.layers
        )
        rows_read = 1 if self._is_one else len(samples)
        self._chunk = len(rows[0]) if recurrent else max(1, model.chunk // rows_read)

    def read(self) -> Tensor | None:
        """Read what has not been read; (m, V) raw float32 logits, or None if more is to be read."""
        ids = self.ids[:1] if self._is_one else self.ids
        end = min(self._read + self._chunk, ids.shape[1])
        logits = self._model.passes.next_logits(ids[:, self._read : end], self._cache)
        self._read = end
        if end < ids.shape[1]:
            return None
        if self._is_one:
            self._is_one = False
            everyone = torch.zeros(self._count, dtype=torch.int64, device=ids.device)
            self._cache.reorder_cache(cast(Any, everyone))
            logits = logits[everyone]
        return logits

    def go_on(self, chosen: Tensor, staying: Sequence[int]) -> bool:
        """Take over the next tokens, and drop the answers that do not stay.

        Args:
            chosen: (m,) int64.
            staying: places of answers in this group.

        Returns:
            False if there was no memory for that. Then the group is of no use any more, but its
            answers are: another group of them can be made.
        """
        try:
            self.ids = torch.cat((self.ids, chosen[:, None]), 1)
            if len(staying) < len(self.ids):
                kept = torch.tensor(staying, dtype=torch.int64, device=self.ids.device)
                self._cache.reorder_cache(cast(Any, kept))
                self.ids = self.ids[kept]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True


class Decoding:
    """The answers to one prompt while they are made. To be used by the model's thread."""

    def __init__(
        self,
        model: DecodingModel,
        prompt: Sequence[int],
        sampling: Sampling,
        wanted: WantedRows,
        early_stop: EarlyStop | None = None,
    ) -> None:
        """
        Args:
            early_stop: when an answer is ended.

        Raises:
            ValueError: answers are to be ended early, and their rows without statistics.
        """
        if early_stop is not None and not wanted.statistics:
            raise ValueError("an early stop needs rows with statistics")
        self._model = model
        self._prompt = list(prompt)
        self._sampling = sampling
        self._wanted = replace(wanted, ranks=True)  # as vLLM's rows of generated tokens have them
        self._ends = frozenset(() if sampling.ignore_eos else model.end_tokens)
        device = model.passes.device
        self._chooser = TokenChooser(sampling, len(prompt), model.end_tokens, device)
        samples = [
            _Sample(
                index,
                generator,
                self._text(prompt),
                window=None if early_stop is None else ConfidenceWindow(early_stop),
            )
            for index, generator in enumerate(seeded_generators(sampling, device))
        ]
        self._waiting = [samples]
        self._group: _Group | None = None

    def _text(self, prompt: Sequence[int]) -> AnswerText:
        sampling = self._sampling
        return AnswerText(
            self._model.tokenizer,
            prompt,
            sampling.stop,
            sampling.include_stop_str_in_output,
            sampling.skip_special_tokens,
        )

    @property
    def is_done(self) -> bool:
        """Whether all answers have ended."""
        return self._group is None and not self._waiting

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One more token of the answers that are decoded together, or some more of the prompt read.

        Where there is no memory for so many, half of them wait for the others.

        Raises:
            RefusalError: with status 503: there is no memory for a single one.
        """
        try:
            return self._step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._group = None
        release()
        running = self._waiting.pop(0)
        if len(running) == 1:
            self._waiting.clear()
            raise no_memory(NO_MEMORY_FOR)
        middle = len(running) // 2
        self._waiting[:0] = [running[:middle], running[middle:]]
        return []

    def _step(self) -> list[Piece]:
        # The first of those that wait are those that run, until they have ended.
        running = self._waiting[0]
        if self._group is None:
            self._group = _Group(self._model, self._prompt, running, self._sampling.max_tokens)
        group = self._group
        logits = group.read()
        if logits is None:
            return []
        generators = [sample.generator for sample in running]
        with unless_it_fails(generators):
            chosen = self._chooser.choose(group.ids, logits, generators)
            rows = made_rows(logits, chosen, self._wanted)
        pieces, staying = [], []
        for place, (sample, token) in enumerate(zip(running, chosen.tolist(), strict=True)):
            own = rows.part(place, place + 1)
            text, finish_reason, stop_reason = self._taken(sample, token)
            if self._is_unsure(sample, own) and finish_reason is None:
                text += sample.text.finish()
                finish_reason, stop_reason = "stop", STOP_REASON
            pieces.append(Piece(sample.index, text, own, finish_reason, stop_reason))
            if finish_reason is None:
                staying.append(place)
        self._waiting[0] = [running[place] for place in staying]
        if not staying:
            self._waiting.pop(0)
        if not staying or not group.go_on(chosen, staying):
            self._group = None
        return pieces

    def _is_unsure(self, sample: _Sample, row: TraceRows) -> bool:
        """Whether an answer is to end with its last token, whose row this is."""
        if sample.window is None or row.statistics is None:
            return False
        is_unsure = sample.window.push(float(row.statistics[0, TokenStatistic.CONFIDENCE]))
        return is_unsure and len(sample.tokens) >= self._sampling.min_tokens

    def _taken(self, sample: _Sample, token: int) -> tuple[str, str | None, str | int | None]:
        """Take over an answer's next token: its text, and why the answer ends with it, if so."""
        sampling = self._sampling
        sample.tokens.append(token)
        stops = token in sampling.stop_token_ids
        if stops or token in self._ends:
            text = ""
            if sampling.include_stop_str_in_output:
                text = sample.text.push(token, may_stop=False)
            return text + sample.text.finish(), "stop", token if stops else None
        text = sample.text.push(token, len(sample.tokens) > sampling.min_tokens)
        if sample.text.stopped is not None:
            return text, "stop", sample.text.stopped
        if len(sample.tokens) >= sampling.max_tokens:
            return text + sample.text.finish(), "length", None
        return text, None, None
