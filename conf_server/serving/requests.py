"""vLLM's chat and completion requests with a `confidence` object."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from fastapi import Request
from pydantic import BaseModel, Field, PrivateAttr
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.backends.base import Chat, Plain, Prompt
from conf_server.backends.served import max_candidates
from conf_server.backends.served_bodies import CheckedBody
from conf_server.engine.marks import ask_for_rows
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import (
    AnswerConfidenceOptions,
    Confidence,
    check_shown,
    check_stop_strings,
)
from conf_server.serving.fields import RequestId
from conf_server.serving.splices import SplicedRequest
from conf_server.settings import ConfidenceSettings
from conf_server.stats.early_stop import ThinkingTokens

_IN_PROMPT = (
    *("tools", "documents", "reasoning_effort", "mm_processor_kwargs", "truncate_prompt_tokens"),
    *("prompt_embeds", "suffix"),
)
"""Fields of vLLM's that change a prompt, beside those that a `Prompt` has."""


class ConfidenceRequest(CheckedBody, SplicedRequest):
    """What both requests share. It is mixed in before vLLM's class."""

    request_id: RequestId

    confidence: AnswerConfidenceOptions | None = Field(
        default=None,
        description="Confidence of the answer: token by token, as a summary, or both. Without it, "
        "an answer with log-probabilities carries what the server's own options say.",
    )
    _resolved: Confidence | None = PrivateAttr(default=None)
    _headers: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_stock(cls, request: BaseModel) -> Self:
        """Take a request from a caller that knows vLLM's model only."""
        if isinstance(request, cls):
            return request
        return cls.model_validate(request.model_dump(exclude_unset=True))

    @property
    def resolved_confidence(self) -> Confidence | None:
        """What the request gets; with None, the answer is exactly as vLLM gives it."""
        return self._resolved

    @property
    def headers(self) -> dict[str, str]:
        """Of the client's request, by lower-case names."""
        return self._headers

    def note_headers(self, raw_request: Request | None) -> None:
        """Keep the headers for further requests that this one leads to."""
        self._headers = {} if raw_request is None else dict(raw_request.headers)

    def prompts(self) -> list[Prompt]:
        """What the answers answer, one after the other."""
        raise NotImplementedError

    def unrepeatable(self) -> str | None:
        """The first field that has made more of the prompt than `prompts` says; None without."""
        return next((name for name in _IN_PROMPT if getattr(self, name, None)), None)

    def preset_confidence(self, confidence: Confidence) -> None:
        """Decide what this request gets, whatever its fields say."""
        self._resolved = confidence
        self._ask_for_logprobs()

    def resolve_confidence(
        self,
        settings: ConfidenceSettings,
        model_config: ModelConfig,
        thinking: ThinkingTokens | None = None,
    ) -> None:
        """Decide what this request gets. The engine has not seen it yet.

        Args:
            thinking: as in `Confidence.resolve`.

        Raises:
            RefusalError: confidence is asked for beside an option that excludes it, or
                more candidates are asked for than the engine gives (--max-logprobs).
        """
        if self._resolved is not None:
            return
        for name, is_set in self._excluding().items():
            if is_set and self.confidence is not None:
                raise RefusalError("confidence", f"not available together with `{name}`.")
            if is_set:
                return
        if self.confidence is None and not self._asks_for_logprobs():
            return
        self._resolved = Confidence.resolve(
            self.confidence,
            settings,
            max_candidates(model_config),
            model_config.get_vocab_size(),
            thinking,
        )
        check_shown(
            self.shown_candidates,
            self.shown_field,
            max_candidates(model_config),
            model_config.get_vocab_size(),
        )
        check_stop_strings(self._resolved, getattr(self, "stop", None))
        self._ask_for_logprobs()

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        parent: Any = super()
        params: SamplingParams = parent.to_sampling_params(*args, **kwargs)
        if self._resolved is not None:
            if params.structured_outputs is not None:
                self._resolved = self._resolved.under_grammar()
            _check_penalties(params, self._resolved)
            _ask_engine(params, self._resolved, self.shown_candidates)
        return params

    shown_field: ClassVar[str]
    """Name of the field that says how many candidates the client wants to see."""

    @property
    def shown_candidates(self) -> int:
        """How many candidates of each token the client wants to see; -1: the whole vocabulary."""
        raise NotImplementedError

    def _excluding(self) -> dict[str, bool]:
        """Options that leave no room for confidence, and whether they are set."""
        raise NotImplementedError

    def _asks_for_logprobs(self) -> bool:
        raise NotImplementedError

    def _ask_for_logprobs(self) -> None:
        """Set the field without which vLLM does not call `_create_*_logprobs`."""
        raise NotImplementedError


def _ask_engine(params: SamplingParams, confidence: Confidence, shown: int) -> None:
    """Make `params` ask the engine for what the mode needs."""
    if confidence.mode == "empty":
        params.logprobs = None
        return
    at_end = confidence.mode == "stats" or params.output_kind == RequestOutputKind.FINAL_ONLY
    top_k = confidence.top_k if confidence.engine_statistics else 0
    ask_for_rows(params, confidence.width(shown), top_k, at_end, confidence.early_stop)


def _check_penalties(params: SamplingParams, confidence: Confidence) -> None:
    """Refuse penalties for what an answer has said, which would forget a thinking that was ended.

    Raises:
        RefusalError: naming the field, which may come from the server's own defaults.
    """
    if confidence.early_stop is None or confidence.early_stop.thinking is None:
        return
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(params, name):
            raise RefusalError(name, "not available with the early_stop action `end_thinking`.")


class ConfidenceChatCompletionRequest(ConfidenceRequest, ChatCompletionRequest):
    """POST /v1/chat/completions."""

    shown_field: ClassVar[str] = "top_logprobs"

    @property
    def shown_candidates(self) -> int:
        return self.top_logprobs or 0

    def _excluding(self) -> dict[str, bool]:
        return {
            "use_beam_search": self.use_beam_search,
            "logprob_token_ids": bool(self.logprob_token_ids),
        }

    def prompts(self) -> list[Prompt]:
        return [
            Chat(
                messages=tuple(map(dict, self.messages)),
                template=self.chat_template,
                template_kwargs=self.chat_template_kwargs,
                add_generation_prompt=self.add_generation_prompt,
                continue_final_message=self.continue_final_message,
            )
        ]

    def _asks_for_logprobs(self) -> bool:
        return bool(self.logprobs)

    def _ask_for_logprobs(self) -> None:
        self.logprobs = True


class ConfidenceCompletionRequest(ConfidenceRequest, CompletionRequest):
    """POST /v1/completions."""

    shown_field: ClassVar[str] = "logprobs"
    _whole_tracers: list[Any] = PrivateAttr(default_factory=list)

    @property
    def whole_tracers(self) -> list[Any]:
        """What has seen the tokens of an answer that is not streamed, one for each prompt."""
        return self._whole_tracers

    @whole_tracers.setter
    def whole_tracers(self, tracers: list[Any]) -> None:
        self._whole_tracers = tracers

    def prompts(self) -> list[Prompt]:
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        special = self.add_special_tokens
        return [Plain(one if isinstance(one, str) else tuple(one), special) for one in given]

    @property
    def shown_candidates(self) -> int:
        return self.logprobs or 0

    def _excluding(self) -> dict[str, bool]:
        return {
            "use_beam_search": self.use_beam_search,
            "logprob_token_ids": bool(self.logprob_token_ids),
            # The prompt's tokens stand among the answer's there; /v1/score is for those.
            "echo": bool(self.echo),
        }

    def _asks_for_logprobs(self) -> bool:
        return self.logprobs is not None

    def _ask_for_logprobs(self) -> None:
        if self.logprobs is None:
            self.logprobs = 0
