"""A small server that answers as conf-server does, with numbers that tell texts apart."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.unit.batch.fake_server import FakeServer

SUMMARY = {"mean_confidence": 5.25, "tail_2048_mean_conf": None}
METRICS = {
    "perplexity": {"value": 1.5, "exact": True},
    "self_certainty": {"value": None, "exact": False},
}
CANDIDATE = {"token": "é", "token_id": 7, "bytes": [195, 169], "logprob": -0.5}
SCORED_TOKEN = {
    **CANDIDATE,
    **{"rank": 1, "confidence": 4.5, "entropy": 0.25, "uncertainty": {"perplexity": 1.6}},
    "top_logprobs": [CANDIDATE],
}
CHAT_TOKEN = {
    **{"token": "Hi", "bytes": [72, 105], "logprob": None, "confidence": 4.5},
    "top_logprobs": [{"token": "Hi", "bytes": [72, 105], "logprob": None}],
}
STATES = np.arange(6, dtype="<f4").reshape(2, 1, 3)


class AnsweringServer(FakeServer):
    """Scores a text by its length, and repeats a prompt as its answer.

    Attributes:
        events: what a streamed chat says, one JSON object an event.
        models_asked: how often the list of models was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.models_asked = 0

    def more_routes(self) -> list[Route]:
        return [
            Route("/v1/uncertainty/methods", lambda _: JSONResponse(METHODS)),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/hidden_states", self._states, methods=["POST"]),
            Route("/moved", lambda _: Response(status_code=307, headers={"location": "/version"})),
            Route("/version", lambda _: JSONResponse({"version": "1"})),
            Route("/text", lambda _: Response("hello")),
        ]

    async def _models(self, request: Request) -> Response:
        self.models_asked += 1
        return await super()._models(request)

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        data = [self._scored(n, text) for n, text in enumerate(texts(body))]
        return await self._answer(request, body, {"object": "score", "data": data})

    def _scored(self, index: int, text: Any) -> dict[str, Any]:
        logprob = None if text == "" else -float(len(text))
        return {
            **{"index": index, "num_tokens": 2, "logprob": logprob, "mean_logprob": logprob},
            **{"perplexity": None, "is_greedy": False, "confidence_summary": SUMMARY},
            **{"uncertainty": METRICS, "entropy_exact": True, "tokens": [SCORED_TOKEN]},
        }

    async def _uncertainty(self, request: Request) -> Response:
        body = await request.json()
        estimates = {
            "p_true": {
                **{"value": None, "exact": True, "higher_is": "more uncertain"},
                "details": {"p_true": 0.25},
            },
            "rauq": {
                **{"value": 1.5, "exact": False, "higher_is": "more uncertain"},
                "backend": "scorer",
            },
        }
        sample = {"text": "a", "finish_reason": "stop", "num_tokens": 1, "logprob": -1.0}
        answer = {
            "object": "uncertainty",
            "answer": {"text": str(body.get("prompt")), "finish_reason": "stop", "num_tokens": 3},
            "estimates": estimates,
            "unavailable": {"sar": "too long"},
            "samples": [{**sample, "mean_logprob": -1.0, "cluster": 0}],
            "clusters": [0],
            "usage": {"prompt_tokens": 4},
            "timings": {"total": 0.5},
        }
        return await self._answer(request, body, answer)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            self.bodies.append(body)
            lines = [f"data: {json.dumps(event)}\n\n" for event in self.events]
            return self.behave(body) or Response(
                "".join([": comment\n\n", *lines, "data: [DONE]\n\n"]),
                media_type="text/event-stream",
            )
        logprobs = {"content": [CHAT_TOKEN], "confidence_summary": SUMMARY, "uncertainty": METRICS}
        choices = [
            {
                **{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"},
                "logprobs": logprobs,
            },
            {"index": 1, "message": {"content": None}, "finish_reason": "tool_calls"},
        ]
        return await self._answer(
            request, body, {"object": "chat.completion", "choices": choices, "usage": {"x": 1}}
        )

    async def _states(self, request: Request) -> Response:
        body = await request.json()
        states = base64.b64encode(STATES.tobytes()).decode()
        weights = base64.b64encode(STATES.tobytes()).decode()
        one = {
            **{"num_tokens": 4, "shape": [2, 1, 3], "states": states},
            "attention": {"weights": {"shape": [1, 6], "values": weights}, "lookback": None},
        }
        data = [{"index": n, **one} for n, _ in enumerate(texts(body))]
        answer = {"object": "hidden_states", "layers": [15, 30], "attention_layers": [2]}
        return await self._answer(request, body, {**answer, "data": data})


METHODS = {
    "object": "list",
    "data": [
        {
            **{"name": name, "description": "d", "needs": ["samples"], "source": "s"},
            **{"higher_is": "more uncertain", "groups": ["all"], "available": name == "sar"},
            "reason": None if name == "sar" else "has to be fitted",
        }
        for name in ("sar", "rde")
    ],
    "groups": {"all": ["sar"]},
    "similarities": ["jaccard", "rouge_l"],
    "default_similarity": "jaccard",
}


def texts(body: dict[str, Any]) -> list[Any]:
    """The texts that a body is about."""
    return [
        text
        for item in body.get("items") or [body]
        for text in item.get("completions") or [item.get("completion", "")]
    ]
