"""How answers are drawn: sampling options, checked, and the tokens they choose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import randbits
from typing import Any, Final, cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from conf_server.backends.base import Ask
from conf_server.refusal import RefusalError, TooLongError

GREEDY_BELOW: Final = 1e-5
"""A temperature below this is greedy, as in vLLM: dividing by it would overflow."""

_KNOWN: Final = (
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "skip_special_tokens",
)


@dataclass(frozen=True)
class Sampling:
    """How the answers to one prompt are drawn, checked.

    Attributes:
        n: how many answers.
        temperature: 0 for the likeliest token.
        max_tokens: of each answer.
        top_k: 0 for no limit.
        seed: None for another answer each time.
        stop: strings that end an answer.
        stop_token_ids: tokens that end an answer beside the model's own.
        The rest are OpenAI's and vLLM's options of the same names, at values without effect.
    """

    n: int
    temperature: float
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    skip_special_tokens: bool = True

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is chosen."""
        return self.temperature < GREEDY_BELOW


def checked_sampling(
    ask: Ask, room: int, max_len: int, vocab_size: int, defaults: Mapping[str, Any]
) -> Sampling:
    """The options of an ask.

    Args:
        room: tokens that fit behind the prompt; at least one. An answer has no more than these.
        max_len: tokens of prompt and answer together.
        defaults: options where the ask says nothing.

    Raises:
        RefusalError: naming the first option that is unknown or has a value that cannot be meant.
        TooLongError: `max_tokens` are more than fit behind any prompt.
    """
    given = {name: value for name, value in ask.options.items() if value is not None}
    for name in given:
        if name not in _KNOWN:
            raise RefusalError(name, "is not available with --backend transformers.")
    options = {**defaults, **given}
    flags = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")
    made: dict[str, Any] = {name: _flag(name, options[name]) for name in flags if name in options}
    for name, (low, high) in _NUMBERS.items():
        if name in options:
            made[name] = _number(name, options[name], low, high)
    if "top_p" in made and made["top_p"] == 0:
        raise RefusalError("top_p", "must be above 0 and at most 1.", 0)
    if "repetition_penalty" in made and made["repetition_penalty"] == 0:
        raise RefusalError("repetition_penalty", "must be above 0.", 0)
    if "top_k" in options:
        # vLLM takes both for no limit.
        made["top_k"] = max(0, _whole("top_k", options["top_k"], -1))
    if "seed" in options:
        made["seed"] = _whole("seed", options["seed"], -(2**63), 2**64 - 1)
    if "min_tokens" in options:
        made["min_tokens"] = _whole("min_tokens", options["min_tokens"], 0)
    if "stop" in options:
        made["stop"] = _stop(options["stop"])
    if "stop_token_ids" in options:
        made["stop_token_ids"] = _token_ids(options["stop_token_ids"], vocab_size)
    if "logit_bias" in options:
        made["logit_bias"] = _bias(options["logit_bias"], vocab_size)
    sampling = Sampling(
        n=_whole("n", ask.n, 1),
        temperature=_number("temperature", ask.temperature, 0, math.inf),
        max_tokens=_max_tokens(ask.max_tokens, room, max_len),
        **made,
    )
    if sampling.min_tokens > sampling.max_tokens:
        raise RefusalError(
            "min_tokens",
            f"{sampling.min_tokens} is more than the {sampling.max_tokens} of max_tokens.",
            sampling.min_tokens,
        )
    return sampling


_NUMBERS: Final[Mapping[str, tuple[float, float]]] = {
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0, math.inf),
}
"""Options that are numbers, with the least and the most that they may be."""


def _number(name: str, value: Any, low: float, high: float) -> float:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not low <= value <= high:
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise RefusalError(name, f"must be a number {limits}.", value)
    return float(value)


def _whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise RefusalError(name, f"must be a whole number {limits}.", value)
    return int(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RefusalError(name, "must be true or false.", value)
    return value


def _max_tokens(value: int | None, room: int, max_len: int) -> int:
    """As vLLM does since 0.32: what could never fit is a mistake, and the rest is cut to fit."""
    if value is None:
        return room
    wanted = _whole("max_tokens", value, 1)
    if wanted > max_len:
        raise TooLongError(
            "max_tokens",
            f"{wanted} tokens, but the model reads and writes at most {max_len} together.",
            wanted,
        )
    return min(wanted, room)


def _stop(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not all(
        isinstance(string, str) and string for string in strings
    ):
        raise RefusalError("stop", "must be a text that is not empty, or a list of such.", value)
    return tuple(strings)


def _token_ids(value: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise RefusalError("stop_token_ids", "must be a list of token ids.", value)
    return tuple(
        _whole(f"stop_token_ids.{place}", token, 0, vocab_size - 1)
        for place, token in enumerate(value)
    )


def _bias(value: Any, vocab_size: int) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise RefusalError("logit_bias", "must be an object of token ids and numbers.", value)
    made = {}
    for token, bias in value.items():
        name = f"logit_bias.{token}"
        number = int(token) if isinstance(token, str) and token.isdecimal() else token
        made[_whole(name, number, 0, vocab_size - 1)] = _number(name, bias, -100, 100)
    return made


class _CountPenalties(LogitsProcessor):
    """OpenAI's presence and frequency penalties, of the answer's own tokens.

    A token that stands c > 0 times in it loses `frequency` c + `presence`.
    """

    def __init__(self, presence: float, frequency: float, prompt_len: int) -> None:
        self._presence = presence
        self._frequency = frequency
        self._prompt_len = prompt_len

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        own = input_ids[:, self._prompt_len :]
        counts = torch.zeros_like(scores)
        counts.scatter_add_(1, own, torch.ones_like(own, dtype=scores.dtype))
        return scores - self._frequency * counts - self._presence * (counts > 0)


class TokenChooser:
    """Chooses the next tokens of several answers to one prompt."""

    def __init__(
        self, sampling: Sampling, prompt_len: int, end_tokens: Sequence[int], device: torch.device
    ) -> None:
        """
        Args:
            end_tokens: the model's own.
        """
        self._is_greedy = sampling.is_greedy
        # In vLLM's order.
        self._changes = LogitsProcessorList()
        if sampling.logit_bias:
            self._changes.append(
                SequenceBiasLogitsProcessor(
                    [[[token], value] for token, value in sampling.logit_bias.items()]
                )
            )
        ends = [*(() if sampling.ignore_eos else end_tokens), *sampling.stop_token_ids]
        if sampling.min_tokens and ends:
            self._changes.append(
                MinNewTokensLengthLogitsProcessor(
                    prompt_len, sampling.min_tokens, ends, device=str(device)
                )
            )
        if sampling.repetition_penalty != 1:
            self._changes.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._changes.append(
                _CountPenalties(sampling.presence_penalty, sampling.frequency_penalty, prompt_len)
            )
        if self._is_greedy:
            return
        if sampling.temperature != 1:
            self._changes.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.min_p:
            self._changes.append(MinPLogitsWarper(sampling.min_p))
        if sampling.top_k:
            self._changes.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._changes.append(TopPLogitsWarper(sampling.top_p))

    def choose(self, ids: Tensor, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(m,) int64, the next tokens.

        Args:
            ids: (m, prompt and answer so far).
            logits: (m, V) float32, raw; they are not changed.
            generators: of each answer, on the logits' device.
        """
        scores: Tensor = self._changes(cast(Any, ids), cast(Any, logits))
        if self._is_greedy:
            return scores.argmax(-1)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        # The smallest of exponential variables with rates p is that of i with probability p_i.
        return scores.softmax(-1).div_(noise).argmax(-1)


@contextmanager
def unless_it_fails(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Draw from generators; if that fails they are where they were, and it can be tried again."""
    before = [generator.get_state() for generator in generators]
    try:
        yield
    except BaseException:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        raise


def seeded_generators(sampling: Sampling, device: torch.device) -> list[torch.Generator]:
    """A source of randomness for each answer, which depends on the seed and the answer's number."""
    seed = randbits(63) if sampling.seed is None else sampling.seed
    made = []
    for index in range(sampling.n):
        digest = sha256(f"{seed}/{index}".encode()).digest()
        generator = torch.Generator(device)
        generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        made.append(generator)
    return made
