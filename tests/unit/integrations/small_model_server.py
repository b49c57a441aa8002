"""A server whose model has five tokens, and says the same of them wherever it is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.unit.batch.fake_server import FakeServer

LOGPROBS = np.log([0.4, 0.3, 0.2, 0.08, 0.02])
END = 1
ENTROPY = -float(np.sum(np.exp(LOGPROBS) * LOGPROBS))


class SmallModelServer(FakeServer):
    """Answers every prompt with the same tokens.

    Attributes:
        answer: those tokens.
        exact: what it says of its entropies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer = (0, 2, END)
        self.exact = True

    def more_routes(self) -> list[Route]:
        return [Route("/v1/completions", self._completions, methods=["POST"])]

    def asked(self, name: str) -> list[dict[str, Any]]:
        """The bodies that have such a field."""
        return [body for body in self.bodies if name in body]

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        order = np.argsort(-LOGPROBS)[: body["logprobs"]]
        top = {f"token_id:{one}": LOGPROBS[one] for one in order.tolist()}
        logprobs = {
            "token_logprobs": [LOGPROBS[one] for one in self.answer],
            "top_logprobs": [top for _ in self.answer],
            "token_uncertainty": [{"mean_token_entropy": ENTROPY} for _ in self.answer],
            "uncertainty": {"mean_token_entropy": {"value": ENTROPY, "exact": self.exact}},
        }
        choices = [
            {"index": index, "token_ids": self.answer, "logprobs": logprobs}
            for index in range(len(body["prompt"]) * body["n"])
        ]
        return JSONResponse({"choices": choices[::-1]})

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        shown = body.get("top_logprobs", 0)
        items = body.get("items", [body])
        texts = [one for item in items for one in item.get("completions", [item.get("completion")])]
        data = [scored(index, text, shown) for index, text in enumerate(texts)]
        return JSONResponse({"object": "score", "data": data})


def scored(index: int, text: str | Sequence[int], shown: int) -> dict[str, Any]:
    """One result of /v1/score. A text has a token for each letter, always the same."""
    tokens = [0] * len(text) if isinstance(text, str) else text
    each = [token_of(one, shown) for one in tokens]
    total = math.fsum(LOGPROBS[one] for one in tokens)
    return {
        **{"index": index, "num_tokens": len(each), "logprob": total, "mean_logprob": None},
        **{"perplexity": None, "is_greedy": False, "entropy_exact": True, "tokens": each},
    }


def token_of(token: int, shown: int) -> dict[str, Any]:
    top = [
        {"token": "t", "token_id": one, "logprob": LOGPROBS[one], "bytes": None}
        for one in range(shown)
    ]
    return {"token": "t", "token_id": token, "logprob": LOGPROBS[token], "top_logprobs": top}
