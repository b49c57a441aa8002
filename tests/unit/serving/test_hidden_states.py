"""POST /v1/hidden_states, through the app of a server, with a backend that makes its states up.

The number of token i in layer l is i + l / 100, in each of 3 columns. There are 2 layers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from conf_server.backends.base import (
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    Plain,
)
from conf_server.backends.dummy import DummyBackend
from conf_server.engine.states_support import NOT_ENABLED
from conf_server.serving.hidden_states_handler import ServingHiddenStates
from conf_server.serving.hidden_states_protocol import HiddenStatesResponse
from conf_server.serving.vllm_host import VllmHost
from conf_server.settings import ConfidenceSettings
from conf_server.stats.forced import ForcedStates, WantedStates
from conf_server.uncertainty.fitted import ModelIdentity
from tests.unit.serving.chat_handler import chat_handler

PROMPT: dict[str, Any] = {"prompt": [5, 7, 12]}
AFTER: dict[str, Any] = {"prompt": [5, 7], "completion": [12, 20]}
MESSAGES = [{"role": "user", "content": "How are you?"}]
MAX_ITEMS, MAX_VALUES = 4, 60
IDENTITY = ModelIdentity("/models/smol", 2, 3, "sha256:weights", None)


@dataclass
class Backend(DummyBackend):
    """Notes its callers and what it has to prepare, and can have numbers that are none."""

    items: list[ForcingItem] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    broken: bool = False

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        given = list(items)
        self.items += given
        return await super().prepare(given)

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        self.callers.append(caller)
        found = await super().states(jobs, wanted, caller)
        if self.broken:
            found[0].states[0, 0, :2] = np.nan, -np.inf
        return [replace(forced, num_cached=1) for forced in found]


@dataclass
class Engine:
    """Stands for the engine, of which the handler wants to know whether it takes work."""

    model_config: Any = None
    renderer: Any = None
    input_processor: Any = None
    errored: bool = False
    admitted: list[int] = field(default_factory=list)

    def check_admission(self, count: int) -> None:
        self.admitted.append(count)


@dataclass
class Server:
    """A server whose backend can be looked into."""

    client: TestClient
    backend: Backend
    engine: Engine
    handler: ServingHiddenStates

    def post(self, body: dict[str, Any], **headers: str) -> Response:
        # As ASCII, which can hold half of a surrogate pair.
        headers["content-type"] = "application/json"
        return self.client.post("/v1/hidden_states", content=json.dumps(body), headers=headers)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON of an answer that has the promised form."""
        response = self.post(body)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        answer: dict[str, Any] = response.json()
        HiddenStatesResponse.model_validate(answer)
        return answer

    def states(self, body: dict[str, Any]) -> list[NDArray[np.float32]]:
        """The results' arrays, which came as base64."""
        return [decoded(result) for result in self.answer(body)["data"]]

    def refusal(self, body: dict[str, Any], status: int = 400) -> dict[str, Any]:
        """The error of a request that the engine has not seen."""
        response = self.post(body)
        assert response.status_code == status, response.text
        assert not self.backend.asked
        error: dict[str, Any] = response.json()["error"]
        return error


@pytest.fixture
def server(app: FastAPI, client: TestClient) -> Iterator[Server]:
    engine, backend = Engine(), Backend(lambda prompt, number: "")
    chat = chat_handler(engine, prompt_tokens_details=True)
    settings = ConfidenceSettings(max_score_items=MAX_ITEMS, max_hidden_state_values=MAX_VALUES)
    handler = ServingHiddenStates(VllmHost(chat), backend, settings, IDENTITY)
    app.state.conf_server_hidden_states = handler
    yield Server(client, backend, engine, handler)
    del app.state.conf_server_hidden_states


def decoded(result: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(result["states"]), "<f4").reshape(result["shape"])


def columns(*layers: Sequence[float]) -> NDArray[np.float64]:
    """A number for each layer and vector, in every column."""
    return np.repeat(np.array(layers)[..., None], 3, axis=2)


def test_an_answer_says_whose_states_it_holds(server: Server) -> None:
    answer = server.answer({**PROMPT, "request_id": "mine"})
    created = answer.pop("created")
    assert created > 1_700_000_000
    (result,) = answer.pop("data")
    assert_allclose(decoded(result), columns([8.02]), rtol=1e-6)
    del result["states"]
    assert result == {"index": 0, "num_tokens": 3, "shape": [1, 1, 3]}
    assert answer == {
        "id": "hidden-mine",
        "object": "hidden_states",
        "model": "smol",
        "layers": [2],
        "usage": {
            "prompt_tokens": 3,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


@pytest.mark.parametrize(
    ("given", "layers"), [([0], [0]), ([-1], [2]), ([-3], [0]), ([2, -3, 1], [2, 0, 1])]
)
def test_layers_come_in_the_order_of_the_request(
    server: Server, given: list[int], layers: list[int]
) -> None:
    body = {**PROMPT, "layers": given}
    assert server.answer(body)["layers"] == layers
    (found,) = server.states(body)
    assert_allclose(found, columns(*([8 + layer / 100] for layer in layers)), rtol=1e-6)


def weights_of(part: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(part["values"]), "<f4").reshape(part["shape"])


ATTENTION = {"layers": [-1, 0], "history": 2, "context_mass": True, "last_token": True}


def test_attention_weights_of_the_tokens_that_count(server: Server) -> None:
    """The dummy pays 1 / (i + h + 2) from token i in head h."""
    body = {**AFTER, "tokens": "completion", "layers": [], "attention": ATTENTION}
    answer = server.answer(body)
    assert answer["attention_layers"] == [1, 0]
    (result,) = answer["data"]
    attention = result["attention"]
    assert result["shape"][0] == 0
    assert (result["num_tokens"], attention["weights"]["shape"]) == (2, [2, 2, 2, 2])
    assert_allclose(weights_of(attention["weights"])[0, :, 0, 0], [1 / 14, 1 / 22], rtol=1e-6)
    assert attention["context_mass"]["shape"] == [2, 2, 2]
    last = weights_of(attention["last_token"])
    assert_allclose(last[0, 1], 1 / (np.array([5, 7, 12, 20]) + 3), rtol=1e-6)
    as_lists = server.answer({**body, "encoding_format": "float"})["data"][0]["attention"]
    for name, part in attention.items():
        assert_allclose(np.array(as_lists[name]["values"]), weights_of(part), rtol=1e-6)


def test_lookback_ratios_of_a_completion(server: Server) -> None:
    """Half of the dummy's attention goes to a context of 2 tokens, of 1 and then of 2 new ones."""
    wanted = {"layers": "all", "history": 0, "lookback": True}
    body = {**AFTER, "tokens": "completion", "layers": [], "attention": wanted}
    answer = server.answer(body)
    assert answer["attention_layers"] == [0, 1]
    attention = answer["data"][0]["attention"]
    assert sorted(attention) == ["lookback", "weights"]
    ratio = (0.25 / 0.75 + 0.25 / 0.5) / 2
    assert_allclose(weights_of(attention["lookback"]), np.full((2, 2), ratio), rtol=1e-6)


@pytest.mark.parametrize(
    "body", [{**AFTER}, {"prompt": [], "completion": [12, 20], "tokens": "completion"}]
)
def test_lookback_wants_a_completion_after_a_context(server: Server, body: dict[str, Any]) -> None:
    error = server.refusal({**body, "attention": {"lookback": True}})
    assert error["param"] == "attention.lookback"


def test_attention_weights_in_a_file(server: Server) -> None:
    body = {**PROMPT, "attention": {}, "encoding_format": "safetensors"}
    content = server.post(body).content
    found = safetensors.numpy.load(content)
    assert sorted(found) == ["attention.weights.0", "states.0"]
    assert found["attention.weights.0"].shape == (1, 3, 2, 1)
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["__metadata__"]["attention_layers"] == "[1]"


@pytest.mark.parametrize(
    ("attention", "field", "reason"),
    [
        ({"layers": [2]}, "attention.layers.0", "which has 2: 0 to 1, or -1 to -2"),
        ({"layers": [0, -2]}, "attention.layers.1", "the same layer"),
        ({"layers": [0], "history": 65}, "body.attention.history", "64"),
        ({"heads": 1}, "body.attention.heads", "Extra inputs"),
    ],
)
def test_wrong_attention_is_refused(
    server: Server, attention: dict[str, Any], field: str, reason: str
) -> None:
    error = server.refusal({**PROMPT, "attention": attention})
    assert error["param"] == field
    assert reason in error["message"]


def test_a_layer_without_weights_is_refused(server: Server) -> None:
    server.backend.known = replace(server.backend.known, attention=("the model uses ALiBi", None))
    error = server.refusal({**PROMPT, "attention": {"layers": [0]}})
    assert "no weights of layer 0: the model uses ALiBi" in error["message"]


def test_too_many_weights_are_refused(server: Server) -> None:
    error = server.refusal({**PROMPT, "attention": {"layers": [0, 1], "history": 64}})
    assert error["param"] == "attention"
    assert f"at most {MAX_VALUES} together" in error["message"]


def test_without_attention_there_have_to_be_layers(server: Server) -> None:
    assert server.refusal({**PROMPT, "layers": []})["param"] == "layers"


@pytest.mark.parametrize(
    ("body", "vectors", "num_tokens"),
    [
        ({**PROMPT}, [8], 3),
        ({**PROMPT, "pooling": "mean"}, [8], 3),
        ({**PROMPT, "pooling": "last"}, [12], 3),
        ({**PROMPT, "pooling": "none"}, [5, 7, 12], 3),
        ({**AFTER, "pooling": "mean"}, [11], 4),
        ({**AFTER, "pooling": "none"}, [5, 7, 12, 20], 4),
        ({**AFTER, "pooling": "none", "tokens": "all"}, [5, 7, 12, 20], 4),
        ({**AFTER, "pooling": "none", "tokens": "completion"}, [12, 20], 2),
        ({**AFTER, "pooling": "mean", "tokens": "completion"}, [16], 2),
        ({**AFTER, "pooling": "last", "tokens": "completion"}, [20], 2),
    ],
)
def test_tokens_that_count_and_what_becomes_of_them(
    server: Server, body: dict[str, Any], vectors: list[float], num_tokens: int
) -> None:
    (result,) = server.answer({**body, "layers": [0, 1]})["data"]
    expected = columns(vectors, [vector + 0.01 for vector in vectors])
    assert_allclose(decoded(result), expected, rtol=1e-6)
    assert result["num_tokens"] == num_tokens


MANY: dict[str, Any] = {
    "items": [
        {"prompt": [5, 7, 12]},
        {"prompt": [1], "completions": [[2], [3, 4]]},
        {"prompt": [9], "completion": [8]},
    ],
    "layers": [0],
    "pooling": "none",
}
MANY_VECTORS = [[5, 7, 12], [1, 2], [1, 3, 4], [9, 8]]


def test_results_stand_in_the_order_of_items_and_completions(server: Server) -> None:
    answer = server.answer(MANY)
    for index, (result, vectors) in enumerate(zip(answer["data"], MANY_VECTORS, strict=True)):
        assert (result["index"], result["num_tokens"]) == (index, len(vectors))
        assert_allclose(decoded(result), columns(vectors))
    assert answer["usage"]["total_tokens"] == 10
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert server.engine.admitted == [4]


def test_numbers_as_lists(server: Server) -> None:
    answer = server.answer({**MANY, "layers": [0, 2], "encoding_format": "float"})
    for index, (result, vectors) in enumerate(zip(answer["data"], MANY_VECTORS, strict=True)):
        expected = columns(vectors, [vector + 0.02 for vector in vectors])
        assert_allclose(result["states"], expected, rtol=1e-6)
        assert (result["index"], result["num_tokens"]) == (index, len(vectors))
        assert result["shape"] == [2, len(vectors), 3]


def test_a_name_that_looks_like_the_answer(server: Server) -> None:
    name = '"data":[]'
    assert server.answer({**PROMPT, "request_id": name})["id"] == f"hidden-{name}"


def test_a_file_of_tensors(server: Server, tmp_path: Any) -> None:
    body = {**MANY, "layers": [-1, 0], "pooling": "mean", "request_id": "mine"}
    response = server.post({**body, "encoding_format": "safetensors"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    tensors = safetensors.numpy.load(response.content)
    expected = {
        f"states.{index}": columns([np.mean(vectors) + 0.02], [np.mean(vectors)])
        for index, vectors in enumerate(MANY_VECTORS)
    }
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        assert_allclose(tensor, expected[name], rtol=1e-6)
    (tmp_path / "file").write_bytes(response.content)
    with safetensors.safe_open(tmp_path / "file", "numpy") as file:
        facts = {name: json.loads(fact) for name, fact in file.metadata().items()}
    assert facts == {
        "id": "hidden-mine",
        "model": "smol",
        "layers": [2, 0],
        "pooling": "mean",
        "num_tokens": [3, 2, 3, 2],
    }


def test_numbers_that_are_none(server: Server) -> None:
    server.backend.broken = True
    (result,) = server.answer({**PROMPT, "layers": [0], "encoding_format": "float"})["data"]
    assert result["states"] == [[[None, None, 8.0]]]
    (found,) = server.states({**PROMPT, "layers": [0]})
    assert np.array_equal(found, [[[np.nan, -np.inf, 8]]], equal_nan=True)


CHAT = {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("body", "item"),
    [
        ({"prompt": "a b"}, ForcingItem(Plain("a b"), (), "", ())),
        (
            {"prompt": "a b", "add_special_tokens": False},
            ForcingItem(Plain("a b", add_special_tokens=False), (), "", ()),
        ),
        ({"items": [PROMPT]}, ForcingItem(Plain((5, 7, 12)), (), "items.0.", ())),
        (
            {"items": [{"prompt": "a", "completion": {"text": "b", "finished": True}}]},
            ForcingItem(
                Plain("a"), (Completion("b", finished=True),), "items.0.", ("items.0.completion",)
            ),
        ),
        (
            {"prompt": "a", "completions": ["b", {"token_ids": [3]}]},
            ForcingItem(
                Plain("a"),
                (Completion("b"), Completion((3,))),
                "",
                ("completions.0", "completions.1"),
            ),
        ),
        (
            {**CHAT, "add_generation_prompt": False},
            ForcingItem(
                Chat(
                    tuple(MESSAGES),
                    template_kwargs={"enable_thinking": False},
                    add_generation_prompt=False,
                ),
                (),
                "",
                (),
            ),
        ),
        (
            {
                "messages": MESSAGES,
                "chat_template": "{{ messages }}",
                "continue_final_message": True,
                "completion": "b",
            },
            ForcingItem(
                Chat(
                    tuple(MESSAGES),
                    template="{{ messages }}",
                    add_generation_prompt=False,
                    continue_final_message=True,
                ),
                (Completion("b"),),
                "",
                ("completion",),
            ),
        ),
    ],
)
def test_texts_and_chats_reach_the_backend_as_they_were_given(
    server: Server, body: dict[str, Any], item: ForcingItem
) -> None:
    server.answer(body)
    assert server.backend.items == [item]


def test_the_engine_learns_for_whom_it_works(server: Server) -> None:
    body = {**PROMPT, "model": "smol", "cache_salt": "salt", "priority": -3, "request_id": "mine"}
    assert server.post(body, traceparent="00-1").status_code == 200
    (caller,) = server.backend.callers
    assert caller.headers["traceparent"] == "00-1"
    assert replace(caller, headers={}) == Caller("hidden-mine", "smol", "salt", -3)
    server.post(body, **{"X-Request-Id": "from-a-header"})
    assert server.backend.callers[1].request_id == "hidden-from-a-header"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "prompt"),
        ({"completion": [3]}, "prompt"),
        ({**PROMPT, "messages": MESSAGES}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": [-1]}, "prompt"),
        ({**AFTER, "completions": [[1]]}, "completion"),
        ({**PROMPT, "completion": []}, "completion"),
        ({**PROMPT, "completions": []}, "completions"),
        ({**PROMPT, "completions": [[1], ""]}, "completions.1"),
        ({**PROMPT, "completion": {"text": "a", "token_ids": [1]}}, "completion"),
        ({**PROMPT, "continue_final_message": True}, "continue_final_message"),
        ({"items": []}, "items"),
        ({"items": [PROMPT], "prompt": [1]}, "prompt"),
        ({"items": [PROMPT, {}]}, "items.1.prompt"),
        ({"items": [PROMPT, {**PROMPT, "layers": [0]}]}, "items.1.layers"),
        ({"items": [PROMPT] * 5}, "items"),
        ({**PROMPT, "completions": [[1]] * 5}, "completions"),
        ({**PROMPT, "layers": []}, "layers"),
        ({**PROMPT, "layers": [True]}, "layers.0"),
        ({**PROMPT, "layers": ["1"]}, "layers.0"),
        ({**PROMPT, "layers": [0, 3]}, "layers.1"),
        ({**PROMPT, "layers": [-4]}, "layers.0"),
        ({**PROMPT, "layers": [0, 1, 0]}, "layers.2"),
        ({**PROMPT, "layers": [2, -1]}, "layers.1"),
        ({**PROMPT, "pooling": "max"}, "pooling"),
        ({**PROMPT, "tokens": "context"}, "tokens"),
        ({**PROMPT, "tokens": "completion"}, "tokens"),
        ({"items": [AFTER, PROMPT], "tokens": "completion"}, "tokens"),
        ({**PROMPT, "encoding_format": "hex"}, "encoding_format"),
        ({**PROMPT, "priority": 2**63}, "priority"),
        ({**PROMPT, "cache_salt": ""}, "cache_salt"),
        ({**PROMPT, "request_id": "\ud800"}, "request_id"),
        ({"input": "a"}, "input"),
    ],
)
def test_a_mistake_is_refused_by_the_fields_name(
    server: Server, body: dict[str, Any], named: str
) -> None:
    error = server.refusal(body)
    # pydantic says `body.` before a field, and behind it which choice of a union it has tried.
    param = error["param"].removeprefix("body.").split(".")
    assert param[: len(named.split("."))] == named.split(".")
    assert named in error["message"]


def test_a_layer_that_is_none_is_refused_with_those_that_are(server: Server) -> None:
    message = server.refusal({**PROMPT, "layers": [0, 7]})["message"]
    assert message == (
        "`layers.1`: 7 is no layer of this model, which has 2: 0 (the embeddings) to 2, "
        "or -1 to -3 from the end."
    )
    message = server.refusal({**PROMPT, "layers": [2, -1]})["message"]
    assert message == "`layers.1`: -1 is the same layer as `layers.0`."


def test_the_item_without_a_completion_is_named(server: Server) -> None:
    message = server.refusal({"items": [AFTER, PROMPT], "tokens": "completion"})["message"]
    assert message == "`tokens`: `items.1` has no completion whose tokens would count."


@pytest.mark.parametrize(
    ("body", "field", "numbers"),
    [
        ({"prompt": [1] * 21, "pooling": "none"}, "pooling", ["21", "63"]),
        ({"prompt": [1] * 11, "pooling": "none", "layers": [0, 1]}, "pooling", ["11", "66"]),
        (
            {"items": [{"prompt": [1] * 11}, {"prompt": [1] * 10}], "pooling": "none"},
            "pooling",
            ["21", "63"],
        ),
        (
            {
                "prompt": [1],
                "completion": [1] * 21,
                "pooling": "none",
                "tokens": "completion",
            },
            "pooling",
            ["21", "63"],
        ),
    ],
)
def test_an_answer_that_would_be_too_large_is_refused_before_any_work(
    server: Server, body: dict[str, Any], field: str, numbers: list[str]
) -> None:
    error = server.refusal(body)
    assert error["param"] == field
    for said in (*numbers, str(MAX_VALUES), "--max-hidden-state-values"):
        assert said in error["message"]


def test_layers_can_be_too_many_for_an_answer(server: Server) -> None:
    server.handler.settings = replace(server.handler.settings, max_hidden_state_values=17)
    items = {"items": [PROMPT, PROMPT], "layers": [0, 1, 2]}
    error = server.refusal(items)
    assert error["param"] == "layers"
    assert "18" in error["message"]
    assert len(server.states({**items, "layers": [0, 1]})) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1] * 20, "pooling": "none"},
        {"prompt": [1] * 10, "completion": [1] * 20, "tokens": "completion", "pooling": "none"},
        {"prompt": [1] * 50, "layers": [0, 1, 2]},
    ],
)
def test_the_largest_answer(server: Server, body: dict[str, Any]) -> None:
    (found,) = server.states(body)
    assert found.size <= MAX_VALUES


def test_as_many_texts_as_a_request_may_hold(server: Server) -> None:
    assert len(server.states({"items": [PROMPT] * MAX_ITEMS})) == MAX_ITEMS
    assert "--max-score-items" in server.post({"items": [PROMPT] * 5}).json()["error"]["message"]


@pytest.mark.parametrize("obstacle", [NOT_ENABLED.obstacle, "the layers are elsewhere"])
def test_a_server_without_hidden_states_says_why(server: Server, obstacle: str) -> None:
    server.backend.known = replace(server.backend.known, states=obstacle)
    error = server.refusal(PROMPT, status=501)
    assert error["type"] == "NotImplementedError"
    assert error["message"] == obstacle


def test_an_unknown_model(server: Server) -> None:
    assert server.refusal({**PROMPT, "model": "other"}, status=404)["param"] == "model"


def test_the_model_is_described_where_it_has_states(server: Server) -> None:
    assert server.client.get("/v1/hidden_states").json() == {
        "object": "hidden_states.model",
        "root": "/models/smol",
        "num_layers": 2,
        "hidden_size": 3,
        "num_heads": 2,
        "weights": "sha256:weights",
        "chat_template": None,
    }


def test_a_model_without_states_is_not_described(
    server: Server, app: FastAPI, client: TestClient
) -> None:
    off = replace(server.backend.known, states=NOT_ENABLED.obstacle)
    backend = Backend(lambda prompt, number: "", off)
    fields = {"engine_client": server.engine, "models": None, "request_logger": None}
    chat: Any = SimpleNamespace(**fields, enable_prompt_tokens_details=False)
    app.state.conf_server_hidden_states = ServingHiddenStates(
        VllmHost(chat), backend, ConfidenceSettings()
    )
    response = client.get("/v1/hidden_states")
    assert response.status_code == 501
    assert response.json()["error"]["message"] == NOT_ENABLED.obstacle
