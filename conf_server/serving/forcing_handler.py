"""What the handlers that force texts have in common."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import Request

from conf_server.backends.base import Backend, Caller, ForcingJob
from conf_server.refusal import RefusalError
from conf_server.serving.fields import request_id
from conf_server.serving.hidden_states_protocol import HiddenStatesRequest
from conf_server.serving.host import Host
from conf_server.serving.score_protocol import CachedTokens, ScoreRequest, ScoreUsage
from conf_server.settings import ConfidenceSettings


class ServingForced:
    """A handler of requests that let the model read texts it did not write."""

    def __init__(self, host: Host, backend: Backend, settings: ConfidenceSettings) -> None:
        self.settings = settings
        self._host = host
        self._backend = backend

    def _caller(
        self,
        kind: str,
        request: ScoreRequest | HiddenStatesRequest,
        raw_request: Request | None,
    ) -> Caller:
        """Who asks; the answer's id begins with `kind`."""
        answer_id = f"{kind}-{request_id(raw_request, request.request_id)}"
        headers = {} if raw_request is None else dict(raw_request.headers)
        return Caller(answer_id, request.model, request.cache_salt, request.priority, headers)

    def _usage(self, jobs: Sequence[ForcingJob], num_cached: int) -> ScoreUsage:
        """The tokens of all texts. How many came from the prefix cache is said only with vLLM's
        --enable-prompt-tokens-details: it tells what other clients have sent.
        """
        num_tokens = sum(len(job.text.token_ids) for job in jobs)
        details = CachedTokens(cached_tokens=num_cached) if self._host.tells_cached else None
        return ScoreUsage(
            prompt_tokens=num_tokens, total_tokens=num_tokens, prompt_tokens_details=details
        )


def not_here(reason: str) -> RefusalError:
    """The refusal of what this server cannot do with this model."""
    status = HTTPStatus.NOT_IMPLEMENTED.value
    return RefusalError(None, reason, status=status, kind="NotImplementedError")
