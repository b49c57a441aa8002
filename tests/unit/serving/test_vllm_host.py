"""vLLM's server as our handlers see it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from conf_server.backends.dummy_numbers import LIMITS
from conf_server.refusal import RefusalError
from conf_server.serving.vllm_host import VllmHost, model_identity


@pytest.fixture
def chat(tmp_path: Path) -> Any:
    """The little that is asked of a chat handler of vLLM's."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    served = [SimpleNamespace(name="smol", model_path=str(tmp_path))]
    loading = SimpleNamespace(load_format="auto", download_dir=None)
    config = SimpleNamespace(model=str(tmp_path), revision=None)
    engine = SimpleNamespace(
        model_config=config,
        renderer=None,
        input_processor=None,
        vllm_config=SimpleNamespace(load_config=loading),
    )
    models = SimpleNamespace(
        base_model_paths=served,
        lora_requests={"poet": SimpleNamespace(lora_name="poet")},
        is_base_model=lambda name: name == "smol",
        model_name=lambda adapter: adapter.lora_name if adapter else "smol",
    )
    return SimpleNamespace(
        engine_client=engine,
        models=models,
        model_config=config,
        request_logger=None,
        enable_prompt_tokens_details=False,
        online_renderer=SimpleNamespace(chat_template="{{ messages }}"),
    )


@pytest.mark.parametrize(
    ("asked", "name"), [(None, "smol"), ("", "smol"), ("smol", "smol"), ("poet", "poet")]
)
def test_models_answer_under_their_names(chat: Any, asked: str | None, name: str) -> None:
    request = SimpleNamespace(model=asked)
    assert asyncio.run(VllmHost(chat).model_name(request)) == name


def test_another_model_is_refused_as_vllm_refuses_it(chat: Any) -> None:
    with pytest.raises(RefusalError) as refused:
        asyncio.run(VllmHost(chat).model_name(SimpleNamespace(model="gpt")))
    error = refused.value
    assert (error.status, error.kind, error.field) == (404, "NotFoundError", "model")
    assert str(error) == "The model `gpt` does not exist. Valid aliases: smol."


def test_a_stream_that_has_begun_fails_with_vllms_body(chat: Any) -> None:
    error = VLLMValidationError("too long", parameter="prompt")
    body = VllmHost(chat).failure(error).error
    assert (body.code, body.type, body.param) == (400, "BadRequestError", "prompt")
    assert VllmHost(chat).failure(RuntimeError("broken")).error.code == 500


def test_weights_that_are_made_up_have_no_fingerprint(chat: Any) -> None:
    identity = model_identity(chat, LIMITS)
    assert identity.weights is not None
    assert identity.chat_template is not None
    chat.engine_client.vllm_config.load_config.load_format = "dummy"
    assert model_identity(chat, LIMITS).weights is None
