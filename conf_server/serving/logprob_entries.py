"""Tokens of an answer as objects of a pydantic model, one for each of them and each candidate."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from conf_server.serving.confidence import by_token, finite
from conf_server.serving.fragments import utf8
from conf_server.serving.token_decoding import Decode
from conf_server.serving.tokens import ShownToken, shown_tokens
from conf_server.serving.trace_delta import TraceDelta

Entry = TypeVar("Entry", bound=BaseModel)


class LogprobEntries(Generic[Entry]):
    """Makes OpenAI's entries, each with its `confidence`."""

    def __init__(self, entry: type[Entry], candidate: type[BaseModel]) -> None:
        """
        Args:
            entry: has `token`, `bytes`, `logprob`, `top_logprobs`, and takes further fields.
            candidate: has the first three, and stands in `top_logprobs`.
        """
        self._entry = entry
        self._candidate = candidate

    def of(self, delta: TraceDelta, shown: int, decode: Decode, as_token_ids: bool) -> list[Entry]:
        """The entries of all tokens of `delta`.

        Args:
            shown: how many candidates each has; -1: all that there are.
            as_token_ids: show `token_id:N` instead of text.
        """
        tokens = shown_tokens(delta.rows(), shown, decode, delta.context(), as_token_ids)
        extras: list[dict[str, Any]] = list(by_token(delta.columns()))
        for extra, metrics in zip(extras, by_token(delta.metrics()), strict=False):
            extra["uncertainty"] = metrics
        return [self._made(token, shown, ext) for token, ext in zip(tokens, extras, strict=True)]

    def _made(self, token: ShownToken, shown: int, extra: dict[str, Any]) -> Entry:
        candidates = [
            _build(self._candidate, logprob, token=text, bytes=utf8(text))
            for text, logprob in zip(token.texts, token.logprobs, strict=True)
        ]
        return _build(
            self._entry,
            token.logprobs[0],
            token=token.texts[0],
            bytes=utf8(token.decoded),
            # vLLM's own count: the first `shown` of the token and its candidates.
            top_logprobs=candidates if shown == -1 else candidates[:shown],
            **extra,
        )


def _build(model: type[Entry], logprob: float, **fields: Any) -> Entry:
    if finite(logprob) is None:  # OpenAI's schema knows no null here; JSON knows no NaN
        return model.model_construct(logprob=None, **fields)
    return model(logprob=logprob, **fields)
