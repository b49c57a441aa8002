"""A causal language model and its tokenizer, loaded by transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    TorchAoConfig,
)

from conf_server.backends.end_tokens import end_tokens
from conf_server.backends.transformers_memory import is_out_of_memory
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.settings import SettingsError

_DEFAULTS: Final = ("top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's generation config may say of sampling, as vLLM reads it too. The temperature is
always the request's own."""

_QUANTIZERS: Final = {
    ("cuda", "int8"): ("bitsandbytes", "torchao"),
    ("cuda", "int4"): ("bitsandbytes", "torchao"),
    ("cpu", "int8"): ("torchao", "bitsandbytes"),
    ("cpu", "int4"): ("bitsandbytes",),
}
"""Packages that can quantize, the best first. torchao 0.18 has no four bits on the CPU."""

_INT4_GROUP: Final = 32  # weights that share one scale; few enough for hidden sizes of small models


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        model: of transformers, in evaluation mode, on the device unless it is to be parked.
        tokenizer: of transformers.
        device: where it runs.
        max_len: tokens of prompt and answer together.
        end_tokens: at which an answer ends: the tokenizer's own first.
        sampling_defaults: sampling options that the model's generation config names.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    max_len: int
    end_tokens: tuple[int, ...]
    sampling_defaults: Mapping[str, Any]


def load(options: TransformersOptions) -> LoadedModel:
    """Load a model and its tokenizer.

    On a GPU the process first limits itself to `memory_fraction` of its memory, and asks torch's
    allocator for segments that can grow, unless the environment's PYTORCH_ALLOC_CONF says
    something else: sizes of batches vary, and fixed segments would be left half empty. Both have
    to happen before CUDA is used in the process.

    Raises:
        SettingsError: an option that this machine or this model cannot meet.
    """
    hub: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.revision is not None:
        hub["revision"] = options.revision
    device = _device(options)
    config = _config(options, hub)
    max_len = _max_len(options, config)
    tokenizer = _tokenizer(options, hub)
    if device.type == "cuda":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        torch.cuda.set_per_process_memory_fraction(options.memory_fraction, device)
    model = _model(options, hub, device)
    # What the file says, not what it leaves to transformers.
    generation = model.generation_config
    named = {name: getattr(generation, name, None) for name in _DEFAULTS}
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device,
        max_len=max_len,
        end_tokens=tuple(end_tokens(tokenizer, generation.eos_token_id)),
        sampling_defaults={name: value for name, value in named.items() if value is not None},
    )


def _device(options: TransformersOptions) -> torch.device:
    if options.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if options.device == "auto":
            return torch.device("cpu")
        raise SettingsError(f"--device: torch sees no GPU for {options.device}")
    device = torch.device("cuda:0" if options.device == "auto" else options.device)
    if device.index is None:
        return torch.device("cuda:0")
    if device.index >= torch.cuda.device_count():
        raise SettingsError(
            f"--device: there is no {options.device}; torch sees {torch.cuda.device_count()} GPUs"
        )
    return device


def _config(options: TransformersOptions, hub: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(options.model, **hub)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"--model: transformers finds no model in {options.model}: {error}"
        ) from error


def _tokenizer(options: TransformersOptions, hub: dict[str, Any]) -> Any:
    path = options.model if options.tokenizer is None else options.tokenizer
    # The revision is the model's.
    own = hub if options.tokenizer is None else {"trust_remote_code": options.trust_remote_code}
    try:
        return AutoTokenizer.from_pretrained(path, **own)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--tokenizer: there is none in {path}: {error}") from error


def _max_len(options: TransformersOptions, config: Any) -> int:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if options.max_len is None:
        if not longest:
            raise SettingsError(
                "--max-model-len: the model's config names no longest text: say how many tokens"
            )
        return int(longest)
    if longest and options.max_len > longest:
        raise SettingsError(
            f"--max-model-len: {options.max_len} is more than the {longest} that the model's "
            "config names (max_position_embeddings)"
        )
    return options.max_len


def _arguments(
    options: TransformersOptions, hub: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """What `from_pretrained` is to know."""
    dtype: Any = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    if dtype == "auto" and device.type == "cpu" and options.quantization == "none":
        dtype = torch.float32  # as conf-server does with vLLM: half precision is slow there
    arguments = {**hub, "dtype": dtype}
    if options.attention != "auto":
        arguments["attn_implementation"] = options.attention
    quantized = options.quantization != "none"
    if quantized:
        quantization = _quantization(options, device)
        arguments["quantization_config"] = quantization
        if dtype == "auto" and getattr(quantization, "load_in_8bit", False):
            # bitsandbytes computes in no other dtype, and warns at each product that it casts.
            arguments["dtype"] = torch.float16
    if options.parked:
        return arguments
    if (device.type == "cuda" or quantized) and find_spec("accelerate") is not None:
        # Weights go to the GPU one by one, and are never all in the machine's memory.
        arguments["device_map"] = {"": str(device)}
    return arguments


def _model(options: TransformersOptions, hub: dict[str, Any], device: torch.device) -> Any:
    arguments = _arguments(options, hub, device)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(options.model, **arguments)
        if "device_map" not in arguments and not options.parked:
            model = model.to(device)
    except Exception as error:
        if is_out_of_memory(error):
            raise SettingsError(
                f"--model: {options.model} does not fit into the memory of {device}: see "
                "--quantization and --memory-fraction"
            ) from error
        if not isinstance(error, ImportError | OSError | ValueError):
            raise
        raise SettingsError(
            f"{_blamed(options)}: transformers cannot load {options.model}: {error}"
        ) from error
    return model.eval()


def _blamed(options: TransformersOptions) -> str:
    """The flag that a failure to load is most likely about; config and folder were there before."""
    if options.quantization != "none":
        return "--quantization"
    return "--model" if options.attention == "auto" else "--attention-implementation"


def _quantization(options: TransformersOptions, device: torch.device) -> Any:
    """How weights are quantized while they are loaded.

    Raises:
        SettingsError: what that needs is not installed.
    """
    bits = options.quantization
    packages = _QUANTIZERS[device.type, bits]
    found = [package for package in packages if find_spec(package) is not None]
    if not found or find_spec("accelerate") is None:
        raise SettingsError(
            f"--quantization: {bits} on {device.type} needs {' or '.join(packages)}, and "
            f"accelerate: pip install {packages[0]} accelerate"
        )
    if found[0] == "torchao":
        return TorchAoConfig(_torchao_type(bits))
    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    computed = torch.bfloat16 if options.dtype == "auto" else getattr(torch, options.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=computed)


def _torchao_type(bits: str) -> Any:
    from torchao.quantization import (  # type: ignore[import-not-found]
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
    )

    if bits == "int8":
        return Int8WeightOnlyConfig()
    return Int4WeightOnlyConfig(group_size=_INT4_GROUP, int4_packing_format="tile_packed_to_4d")
