"""vLLM's chat and completion requests with a `confidence` object."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PrivateAttr
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from conf_server.serving.confidence import Confidence, ConfidenceOptions
from conf_server.serving.tokens import max_candidates
from conf_server.settings import ConfidenceSettings

_DESCRIPTION = (
    "Confidence of the answer: token by token, as a summary, or both. Without it, an answer "
    "with log-probabilities carries what the server's own options say."
)


class ConfidenceChatCompletionRequest(ChatCompletionRequest):
    """POST /v1/chat/completions."""

    confidence: ConfidenceOptions | None = Field(default=None, description=_DESCRIPTION)
    _resolved: Confidence | None = PrivateAttr(default=None)
    _vocab_size: int = PrivateAttr(default=0)

    @classmethod
    def from_stock(cls, request: ChatCompletionRequest) -> ConfidenceChatCompletionRequest:
        """The same request, for callers that know vLLM's model only."""
        if isinstance(request, cls):
            return request
        return cls.model_validate(request.model_dump(exclude_unset=True))

    def resolve_confidence(self, settings: ConfidenceSettings, model_config: ModelConfig) -> None:
        """Decide what this request gets; before the engine sees it.

        Raises:
            VLLMValidationError: confidence asked for beside an option that excludes it.
        """
        excluding = {
            "use_beam_search": self.use_beam_search,
            "logprob_token_ids": bool(self.logprob_token_ids),
        }
        if _excluded(self.confidence, excluding) or not (self.logprobs or self.confidence):
            return
        self._resolved = Confidence.resolve(self.confidence, settings, max_candidates(model_config))
        self._vocab_size = model_config.get_vocab_size()
        self.logprobs = True  # vLLM asks _create_chat_logprobs only then

    @property
    def resolved_confidence(self) -> Confidence | None:
        """None: an answer exactly as vLLM gives it."""
        return self._resolved

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        params = super().to_sampling_params(*args, **kwargs)
        if self._resolved is not None:
            self._resolved.ask_engine(params, self.top_logprobs or 0, self._vocab_size)
        return params


class ConfidenceCompletionRequest(CompletionRequest):
    """POST /v1/completions."""

    confidence: ConfidenceOptions | None = Field(default=None, description=_DESCRIPTION)
    _resolved: Confidence | None = PrivateAttr(default=None)
    _vocab_size: int = PrivateAttr(default=0)

    @classmethod
    def from_stock(cls, request: CompletionRequest) -> ConfidenceCompletionRequest:
        """The same request, for callers that know vLLM's model only."""
        if isinstance(request, cls):
            return request
        return cls.model_validate(request.model_dump(exclude_unset=True))

    def resolve_confidence(self, settings: ConfidenceSettings, model_config: ModelConfig) -> None:
        """Decide what this request gets; before the engine sees it.

        Raises:
            VLLMValidationError: confidence asked for beside an option that excludes it.
        """
        excluding = {
            "use_beam_search": self.use_beam_search,
            "logprob_token_ids": bool(self.logprob_token_ids),
            # The prompt's tokens stand among the answer's there; /v1/score is for those.
            "echo": bool(self.echo),
        }
        wanted = self.logprobs is not None or self.confidence is not None
        if _excluded(self.confidence, excluding) or not wanted:
            return
        self._resolved = Confidence.resolve(self.confidence, settings, max_candidates(model_config))
        self._vocab_size = model_config.get_vocab_size()
        if self.logprobs is None:
            self.logprobs = 0  # vLLM asks _create_completion_logprobs only then

    @property
    def resolved_confidence(self) -> Confidence | None:
        """None: an answer exactly as vLLM gives it."""
        return self._resolved

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        params = super().to_sampling_params(*args, **kwargs)
        if self._resolved is not None:
            self._resolved.ask_engine(params, self.logprobs or 0, self._vocab_size)
        return params


def _excluded(options: ConfidenceOptions | None, excluding: dict[str, bool]) -> bool:
    """Whether one of these options is set: an error where confidence is asked for as well."""
    for name, is_set in excluding.items():
        if is_set and options is not None:
            raise VLLMValidationError(
                f"confidence is not available together with {name}.", parameter="confidence"
            )
    return any(excluding.values())
