"""vLLM's server as our handlers see it."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.generate.base.serving import GenerateBaseServing
from vllm.entrypoints.serve import create_error_response

from conf_server.backends.base import Limits
from conf_server.engine.weights import weights_fingerprint
from conf_server.heads.features import ModelShape
from conf_server.refusal import RefusalError
from conf_server.serving.error_body import ErrorBody
from conf_server.serving.host import AskedModel
from conf_server.serving.model_identity import hashed_template
from conf_server.uncertainty.fitted import ModelIdentity


class VllmHost(GenerateBaseServing):
    """A handler of vLLM's that answers nothing itself: it looks after models and the queue."""

    def __init__(self, chat: Any) -> None:
        """
        Args:
            chat: this server's chat handler. Engine, models and the log of requests are shared.
        """
        super().__init__(
            engine_client=chat.engine_client,
            models=chat.models,
            request_logger=chat.request_logger,
        )
        self.tells_cached: bool = chat.enable_prompt_tokens_details

    async def model_name(self, request: AskedModel) -> str:
        found = await self._check_model(request)  # type: ignore[arg-type]  # it reads `model`
        if found is not None:
            error = found.error
            refusal = RefusalError(None, error.message, status=error.code, kind=error.type)
            refusal.field = error.param
            raise refusal
        adapter = self._maybe_get_adapters(request)  # type: ignore[arg-type]
        return str(self.models.model_name(adapter))

    def check_room(self, count: int) -> None:
        self._preflight(count)

    def failure(self, error: Exception) -> ErrorBody:
        return ErrorBody.model_validate(create_error_response(error).model_dump())


def model_identity(chat: Any, limits: Limits) -> ModelIdentity:
    """The identity of the model behind a chat handler of vLLM's.

    Args:
        limits: of a backend that gives hidden states.
    """
    config, loading = chat.model_config, chat.engine_client.vllm_config.load_config
    template = chat.online_renderer.chat_template
    if template is None:
        template = getattr(chat.renderer.tokenizer, "chat_template", None)
    made_up = loading.load_format == "dummy"
    return ModelIdentity(
        root=chat.models.base_model_paths[0].model_path,
        num_layers=limits.num_layers,
        hidden_size=limits.hidden_size,
        weights=None
        if made_up
        else weights_fingerprint(config.model, config.revision, loading.download_dir),
        chat_template=hashed_template(template),
    )


def model_shape(model_config: Any) -> ModelShape:
    """The sizes of a model, from vLLM's configuration of it; it need not be loaded."""
    text = model_config.hf_text_config
    return ModelShape(
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        hidden_size=model_config.get_hidden_size(),
    )
