"""What our handlers take from vLLM's chat handler, without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def chat_handler(engine: object, prompt_tokens_details: bool = False) -> Any:
    """A chat handler of a server that serves the model smol, without adapters."""
    models = SimpleNamespace(
        is_base_model=lambda name: name == "smol",
        base_model_paths=[SimpleNamespace(name="smol")],
        lora_requests={},
        model_name=lambda adapter: "smol",
    )
    return SimpleNamespace(
        engine_client=engine,
        models=models,
        request_logger=None,
        enable_prompt_tokens_details=prompt_tokens_details,
    )
