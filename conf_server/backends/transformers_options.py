"""How a model is to be run by transformers, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from conf_server.settings import ConfidenceSettings, SettingsError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "int4"]
Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
CacheKind = Literal["dynamic", "static"]

_CHOICES: Final = {
    "dtype": get_args(Dtype),
    "quantization": get_args(Quantization),
    "attention": get_args(Attention),
    "cache": get_args(CacheKind),
}
_FLAGS: Final = {"attention": "--attention-implementation"}
"""Flags whose name is not that of the option."""


@dataclass(frozen=True)
class TransformersOptions:
    """How to load a model, and how much of it to run at a time.

    Attributes:
        model: a model folder, or its name on a hub.
        tokenizer: likewise; None for the model's own.
        revision: of the model on the hub.
        dtype: of the weights; auto is float32 on the CPU, and on a GPU what the model's config
            says.
        device: cpu, cuda, cuda:N; auto is the first GPU where there is one.
        quantization: of the weights as they are loaded.
        attention: transformers' implementation; auto is the one it prefers for the model.
        max_len: tokens of prompt and answer together; None for `max_position_embeddings` of the
            model's config.
        max_logprobs: most of the likeliest tokens that a row can name; -1 for the vocabulary.
        cache: of keys and values while an answer is generated: dynamic grows with it, static is
            allocated for its longest.
        memory_fraction: of the GPU's memory that this process may use, in (0, 1].
        max_batch_tokens: tokens, padding included, that one forward pass may read at a time. A
            longer text is a pass of its own. None for what a device reads in about a second: 1024
            on the CPU and 8192 on a GPU. Other requests wait for so long.
        max_generations: requests that generate at a time; further ones wait.
        max_attention_bytes: that one layer's attention weights of a batch may have. A longer text
            is a pass of its own.
        max_forced_tokens: that all texts of one request, with their contexts, may have together.
        trust_remote_code: whether code that comes with the model may run.
        parked: the weights are loaded into the machine's memory, and are on the device only
            between `move(True)` and `move(False)`.

    Raises:
        SettingsError: a value that cannot be meant; the message begins with the flag.
    """

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    quantization: Quantization = "none"
    attention: Attention = "auto"
    max_len: int | None = None
    max_logprobs: int = 20
    cache: CacheKind = "dynamic"
    memory_fraction: float = 0.9
    max_batch_tokens: int | None = None
    max_generations: int = 16
    max_attention_bytes: int = ConfidenceSettings.max_attention_bytes
    max_forced_tokens: int = ConfidenceSettings.max_forced_tokens
    trust_remote_code: bool = False
    parked: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                flag = _FLAGS.get(name, f"--{name}")
                raise SettingsError(f"{flag}: must be one of {', '.join(choices)}, got {value!r}")
        kind, _, number = self.device.partition(":")
        numbered = kind == "cuda" and number.isdecimal()
        if self.device not in ("auto", "cpu", "cuda") and not numbered:
            raise SettingsError(f"--device: must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if not 0 < self.memory_fraction <= 1:
            raise SettingsError(
                f"--memory-fraction: must be in (0, 1], got {self.memory_fraction!r}"
            )
        if self.max_len is not None:
            _require_positive("--max-model-len", self.max_len)
        if self.max_logprobs != -1 and self.max_logprobs < 0:
            raise SettingsError(
                f"--max-logprobs: must be -1 or at least 0, got {self.max_logprobs!r}"
            )
        if self.max_batch_tokens is not None:
            _require_positive("--max-batch-tokens", self.max_batch_tokens)
        _require_positive("--max-generations", self.max_generations)
        _require_positive("--max-attention-bytes", self.max_attention_bytes)
        _require_positive("--max-forced-tokens", self.max_forced_tokens)


def _require_positive(flag: str, value: int) -> None:
    if value < 1:
        raise SettingsError(f"{flag}: must be a whole number of at least 1, got {value!r}")
