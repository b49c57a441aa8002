"""The request of /v1/responses with a `confidence` object."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import Field, PrivateAttr
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from conf_server.backends.base import Prompt
from conf_server.serving.fields import random_id
from conf_server.serving.requests import ConfidenceRequest

_LOGPROBS: Final = "message.output_text.logprobs"


class ConfidenceResponsesRequest(ConfidenceRequest, ResponsesRequest):
    """POST /v1/responses."""

    # An answer repeats these two, and must not have null there: vLLM's stream would break off.
    null_is_absent: ClassVar[frozenset[str]] = frozenset({"request_id", "background", "truncation"})
    shown_field: ClassVar[str] = "top_logprobs"

    request_id: str = Field(
        default_factory=lambda: f"resp_{random_id()}",
        description="The client's name for this request, and the answer's id. Null or absent: the "
        "server makes one up.",
    )
    _trace: Any = PrivateAttr(default=None)

    @property
    def trace(self) -> Any:
        """The `ResponseTrace` of this request's answer; None as long as it has none."""
        return self._trace

    @trace.setter
    def trace(self, trace: Any) -> None:
        self._trace = trace

    @property
    def shown_candidates(self) -> int:
        return self.top_logprobs or 0

    def prompts(self) -> list[Prompt]:
        raise NotImplementedError("vLLM makes the prompt of a response of more than its input")

    def check_stream(self, engine: Any) -> None:
        """Refuse what the engine would refuse once the stream has begun: vLLM asks it so late.

        Raises:
            VLLMValidationError, ValueError: what the engine's client raises.
        """
        # A stock server's client, as the plugin has it, cannot be asked.
        if self.stream and hasattr(engine, "check_params"):
            # The number of tokens follows from the prompt, and is right by then.
            engine.check_params(self.to_sampling_params(1))

    def _excluding(self) -> dict[str, bool]:
        return {
            "background": bool(self.background),
            # With a parser, the hidden part's tokens are among those that vLLM would show.
            "include_reasoning: false": not self.include_reasoning,
        }

    def _asks_for_logprobs(self) -> bool:
        return self.is_include_output_logprobs()

    def _ask_for_logprobs(self) -> None:
        if not self.is_include_output_logprobs():
            self.include = [*(self.include or []), _LOGPROBS]
