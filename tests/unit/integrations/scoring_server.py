"""A small server that scores token ids, with numbers that tell texts and contexts apart."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.unit.batch.fake_server import FakeServer

MAX_MODEL_LEN = 52


@functools.cache
def tokenizer_of(model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model)


def logprob(context: Sequence[int], continuation: Sequence[int]) -> float:
    return -float(sum(continuation)) - sum(context) / 1e5


class ScoringServer(FakeServer):
    """Serves the embedded model's tokens.

    Attributes:
        text: what it writes.
    """

    def __init__(self, model: Path) -> None:
        super().__init__()
        self.root = str(model)
        self.text = ""
        self.tokenizer = tokenizer_of(model)

    def more_routes(self) -> list[Route]:
        return [Route("/v1/completions", self._completion, methods=["POST"])]

    def items(self) -> list[dict[str, Any]]:
        """Of all requests for scores."""
        return [item for body in self.bodies for item in body.get("items", ())]

    async def _models(self, _: Request) -> Response:
        card = {"id": self.model, "root": self.root, "max_model_len": MAX_MODEL_LEN}
        return JSONResponse({"data": [card]})

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        if "items" not in body:
            ids = self.tokenizer.encode(body["completion"], add_special_tokens=False)
            return JSONResponse({"object": "score", "data": [scored((), ids)]})
        data = [
            scored(item["prompt"], ids) for item in body["items"] for ids in item["completions"]
        ]
        return await self._answer(request, body, {"object": "score", "data": data})

    async def _completion(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, body, {"choices": [{"text": self.text}]})


def scored(context: Sequence[int], continuation: Sequence[int]) -> dict[str, Any]:
    total = logprob(context, continuation)
    tokens = [{"token": "", "token_id": one, "logprob": None} for one in continuation]
    return {
        **{"num_tokens": len(continuation), "logprob": total, "mean_logprob": None},
        **{"perplexity": None, "is_greedy": len(continuation) == 1, "tokens": tokens},
    }
