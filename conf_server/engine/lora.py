"""Where LoRA and prompt log-probabilities do not go together in vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform


def scoring_obstacle(vllm_config: VllmConfig, adapters: Iterable[LoRARequest]) -> str | None:
    """Why prompt log-probabilities cannot be trusted here, or None where they can.

    vLLM's LoRA layer of the output head maps one row of logits to each request, but
    teacher forcing has a row for each token. On CPU a second request in the batch then
    ends the engine; elsewhere the head's adapter weights meet the wrong rows. Without
    adapters on the head the layer is not built (CPU) or adds zeros (elsewhere).
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
        if _adapts_head(Path(adapter.lora_path)):
            return (
                f"adapter {adapter.lora_name} adapts lm_head, for which vLLM's prompt "
                "log-probabilities are wrong: exclude it with --lora-target-modules"
            )
    return None


def _excludes_head(target_modules: list[str] | None) -> bool:
    return target_modules is not None and "lm_head" not in target_modules


def _adapts_head(folder: Path) -> bool:
    config = folder / "adapter_config.json"
    if not config.is_file():  # a hub name: vLLM itself has the file, we do not look for it
        return False
    fields = json.loads(config.read_text())
    named = [fields.get("target_modules") or [], fields.get("modules_to_save") or []]
    return any("lm_head" in names for names in named)
