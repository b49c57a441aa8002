"""A small server with hidden states that anyone can compute, and fits that ask it."""

from __future__ import annotations

import base64
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from conf_server.fit import command
from conf_server.uncertainty.fitted import Fitted
from conf_server.uncertainty.fitted_file import FACTS, load_fitted
from tests.unit.batch.fake_server import FakeServer

WIDTH, NUM_LAYERS = 4, 6
HEADS = 2


def state(text: str, layer: int, of: str) -> NDArray[np.float32]:
    """What the server says of a text: random, but for the first number. It is above 0 where the
    text has "right" in it, in the middle layer and of the last token."""
    rng = np.random.default_rng(zlib.crc32(f"{text}/{layer}/{of}".encode()))
    vector = rng.normal(size=WIDTH)
    if layer == NUM_LAYERS // 2 and of == "last":
        vector[0] = 5 if "right" in text else -5
    return vector.astype(np.float32)


def lookback(text: str) -> NDArray[np.float32]:
    """How far heads look back: random, but for the last head. It looks back where the text has
    "right" in it."""
    ratios = np.random.default_rng(zlib.crc32(text.encode())).random((NUM_LAYERS, HEADS))
    ratios[-1, -1] = 0.9 if "right" in text else 0.1
    return ratios.astype(np.float32)


class StatesServer(FakeServer):
    """Answers /v1/hidden_states.

    Attributes:
        weights: the fingerprint that it says it serves.
    """

    weights = "sha256:weights"

    def more_routes(self) -> list[Route]:
        return [
            Route("/v1/hidden_states", self._states, methods=["POST"]),
            Route("/v1/hidden_states", self._model, methods=["GET"]),
        ]

    async def _model(self, _: Request) -> Response:
        return JSONResponse(
            {
                "object": "hidden_states.model",
                "root": self.root,
                "num_layers": NUM_LAYERS,
                "hidden_size": WIDTH,
                "weights": self.weights,
                "chat_template": None,
            }
        )

    async def _states(self, request: Request) -> Response:
        body = await request.json()
        if body.get("attention"):
            return await self._answer(request, body, _looking_back(body))
        of = "last" if body["pooling"] == "last" else body["tokens"]
        text = whole_text(body)
        states = np.stack([state(text, layer, of) for layer in body["layers"]])[:, None]
        data = [{"index": 0, "num_tokens": 3, "shape": states.shape, "states": coded(states)}]
        answer = {"object": "hidden_states", "layers": body["layers"], "data": data}
        return await self._answer(request, body, answer)

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        data = [{"index": 0, "mean_logprob": -float(len(whole_text(body)))}]
        return await self._answer(request, body, {"object": "score", "data": data})


def coded(numbers: NDArray[np.float32]) -> str:
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def _looking_back(body: dict[str, Any]) -> dict[str, Any]:
    assert body["attention"] == {"layers": "all", "history": 0, "lookback": True}
    assert (body["layers"], body["tokens"]) == ([], "completion")
    ratios = lookback(whole_text(body))
    part = {"shape": ratios.shape, "values": coded(ratios)}
    result = {"index": 0, "num_tokens": 3, "shape": [0, 0, 0], "states": ""}
    data = [{**result, "attention": {"lookback": part}}]
    return {"object": "hidden_states", "layers": [], "data": data}


def whole_text(body: dict[str, Any]) -> str:
    completion = body.get("completion", "")
    text = completion if isinstance(completion, str) else completion["text"]
    messages = [message["content"] for message in body.get("messages", [])]
    return f"{body.get('prompt', '')}{''.join(messages)}{text}"


class Fit:
    """A file of lines, and fits to it."""

    def __init__(self, folder: Path, server: StatesServer) -> None:
        self.train = folder / "train.jsonl"
        self.background = folder / "background.jsonl"
        self.folder = folder / "fitted"
        self._server = server

    def write(self, *lines: Any, path: Path | None = None) -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (path or self.train).write_text("".join(text + "\n" for text in texts))

    def run(self, *words: str) -> int:
        given = [str(self.train), "-o", str(self.folder), "--url", self._server.url]
        return command.main([*given, *words])

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / FACTS).read_text())
        return facts

    def fitted(self) -> Fitted:
        return load_fitted(self.folder)


def lines(count: int) -> list[dict[str, Any]]:
    """Every other answer is right."""
    answers = ["right", "wrong"]
    made = [
        {"prompt": f"p{n}", "completion": f" {answers[n % 2]}", "correct": n % 2 == 0}
        for n in range(count)
    ]
    random.Random(0).shuffle(made)
    return made
