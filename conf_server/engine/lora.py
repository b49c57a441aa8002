"""Refusing to score where LoRA makes vLLM's prompt log-probabilities wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import vllm.envs as envs
from huggingface_hub import try_to_load_from_cache
from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

_CONFIG: Final = "adapter_config.json"
_HEADS: Final = ("lm_head", "language_model.lm_head")
"""Paths of the output head: in a model of text alone, and in the text part of other models."""


class AdapterUnreadableError(Exception):
    """The configuration of an adapter cannot be read on this host. The message says why."""


def scoring_obstacle(vllm_config: VllmConfig, adapters: Iterable[LoRARequest]) -> str | None:
    """Why prompt log-probabilities cannot be trusted here, or None where they can.

    vLLM's LoRA layer of the output head expects one row of logits for each request, but
    teacher forcing has one for each token. On CPU this ends the engine as soon as a second
    request is in the batch. On other devices the adapter's weights are applied to the wrong
    rows. Without adapters on the head there is no such layer on CPU, and elsewhere it adds
    zeros. If an adapter's configuration cannot be read, the adapter counts as one on the head.

    Args:
        adapters: those that the server has loaded.
    """
    config = vllm_config.lora_config
    if config is None or _excludes_head(config.target_modules):
        return None
    if current_platform.is_cpu():
        return (
            "scoring with --enable-lora on CPU needs --lora-target-modules without lm_head: "
            "vLLM's LoRA layer of the output head cannot compute prompt log-probabilities"
        )
    for adapter in adapters:
        if problem := _problem(adapter):
            return f"{problem}: exclude it with --lora-target-modules"
    return None


def _excludes_head(target_modules: list[str] | None) -> bool:
    return target_modules is not None and not any("lm_head" in name for name in target_modules)


def _problem(adapter: LoRARequest) -> str | None:
    wrong = "for which vLLM's prompt log-probabilities are wrong"
    try:
        if not _adapts_head(_read_config(adapter.lora_path)):
            return None
    except AdapterUnreadableError as error:
        return f"adapter {adapter.lora_name} may adapt lm_head, {wrong} ({error})"
    return f"adapter {adapter.lora_name} adapts lm_head, {wrong}"


def _read_config(lora_path: str) -> dict[str, Any]:
    """The PEFT configuration of an adapter.

    Raises:
        AdapterUnreadableError: there is no such file, or it holds something else.
    """
    file = _config_file(lora_path)
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterUnreadableError(f"{file} cannot be read here: {error}") from error
    if not isinstance(fields, dict):
        raise AdapterUnreadableError(f"{file} is no PEFT configuration")
    return fields


def _config_file(lora_path: str) -> Path:
    """The file that vLLM has read the adapter's configuration from.

    As in vLLM (vllm/lora/utils.py, get_adapter_absolute_path), `lora_path` is a path if it
    exists, else a name on a hub. Nothing is downloaded here: what the workers have downloaded
    is in the hub's cache.

    Raises:
        AdapterUnreadableError: the file is not in this host's cache.
    """
    if os.path.isabs(lora_path) or lora_path.startswith("~") or os.path.exists(lora_path):
        return Path(os.path.expanduser(lora_path), _CONFIG)
    if envs.VLLM_USE_MODELSCOPE:
        raise AdapterUnreadableError(f"{lora_path} is ModelScope's, whose cache is not looked into")
    try:
        found = try_to_load_from_cache(lora_path, _CONFIG)
    except ValueError as error:  # a name that no hub can have
        raise AdapterUnreadableError(f"{lora_path} cannot be read here: {error}") from error
    if not isinstance(found, str):
        raise AdapterUnreadableError(f"{lora_path} is neither a folder here nor in the hub's cache")
    return Path(found)


def _adapts_head(fields: dict[str, Any]) -> bool:
    """Whether `target_modules` or `modules_to_save` may name the output head.

    PEFT takes either a list of names, or a regular expression for a module's whole path.

    Raises:
        AdapterUnreadableError: the regular expression is not valid.
    """
    named = [fields.get("target_modules") or [], fields.get("modules_to_save") or []]
    return any(
        _matches_head(names) if isinstance(names, str) else any("lm_head" in name for name in names)
        for names in named
    )


def _matches_head(pattern: str) -> bool:
    """Whether a regular expression for module paths may match the output head.

    Raises:
        AdapterUnreadableError: the regular expression is not valid.
    """
    try:
        return "lm_head" in pattern or any(re.fullmatch(pattern, head) for head in _HEADS)
    except re.error as error:
        raise AdapterUnreadableError(f"target_modules {pattern!r}: {error}") from error
