"""What calls send, and what they make of the answers: the same for both clients."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.responses import JSONResponse

from conf_server.client import AnswerGroup, Candidate, Estimate, Metric, ServerError, Vote
from conf_server.client.calls import UNCERTAINTY_OPTIONS
from conf_server.serving.uncertainty_protocol import UncertaintyOptions
from tests.processes import until
from tests.unit.client.answering_server import STATES, SUMMARY, AnsweringServer
from tests.unit.client.conftest import Connect
from tests.unit.thoughts import thought

TURN = {"role": "assistant", "content": "The river is the"}


def test_completions_give_a_list_in_their_order(client: Any, server: AnsweringServer) -> None:
    found = client.score(prompt="p", completions=["a", "bbb", ""])
    assert [one.logprob for one in found] == [-1.0, -3.0, None]
    assert [one.index for one in found] == [0, 1, 2]
    assert server.bodies == [{"prompt": "p", "completions": ["a", "bbb", ""], "model": "m"}]


def test_a_completion_gives_one_result(client: Any) -> None:
    found = client.score(prompt="p", completion="four")
    assert (found.logprob, found.perplexity, found.is_greedy) == (-4.0, None, False)
    assert found.confidence_summary == SUMMARY
    assert found.uncertainty["perplexity"] == Metric(1.5, True)
    assert found.uncertainty["self_certainty"].value is None
    assert found.raw["logprob"] == -4.0
    (token,) = found.tokens
    assert (token.token, token.bytes, token.rank, token.entropy) == ("é", b"\xc3\xa9", 1, 0.25)
    assert token.uncertainty == {"perplexity": 1.6}
    assert token.top_logprobs == (Candidate("é", -0.5, 7, b"\xc3\xa9"),)


def test_fields_of_a_score_are_sent_as_they_are(client: Any, server: AnsweringServer) -> None:
    fields = {
        "messages": [TURN],
        "continue_final_message": True,
        "completion": {"token_ids": [1, 2], "finished": True},
        "mode": "per_token",
        "top_logprobs": 3,
        "confidence": {"top_k": 5, "window": 16},
        "model": "adapter",
    }
    client.score(**fields)
    assert server.bodies == [fields]
    assert server.models_asked == 0


def test_ids_may_be_arrays_and_text_half_a_character(client: Any, server: AnsweringServer) -> None:
    client.score(prompt=np.array([1, 2]), completions=[np.array([3]), [np.int64(4)], "\ud800"])
    assert server.bodies[0]["prompt"] == [1, 2]
    assert server.bodies[0]["completions"] == [[3], [4], "\ud800"]


def test_what_json_cannot_hold_is_not_sent(client: Any, server: AnsweringServer) -> None:
    with pytest.raises(ValueError, match="JSON"):
        client.score(prompt="p", completion="c", priority=float("nan"))
    assert server.bodies == []


def test_many_items_are_several_requests(client: Any, server: AnsweringServer) -> None:
    items = [{"prompt": "p", "completions": ["a" * n, "b" * n]} for n in range(1, 6)]
    items.append({"prompt": "q", "completion": "c" * 9})
    done: list[tuple[int, int]] = []
    found = client.score(
        items=items, batch_size=4, mode="stats", progress=lambda *told: done.append(told)
    )
    assert [one.logprob for one in found] == [-1, -1, -2, -2, -3, -3, -4, -4, -5, -5, -9]
    assert [one.index for one in found] == list(range(11))
    assert [one.item for one in found] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert sorted(len(body["items"]) for body in server.bodies) == [2, 2, 2]
    assert {body["mode"] for body in server.bodies} == {"stats"}
    assert sorted(done)[-1] == (11, 11)
    assert len(done) == 3


def test_many_completions_of_one_context_too(client: Any, server: AnsweringServer) -> None:
    found = client.score(prompt="p", completions=["a" * n for n in range(1, 8)], batch_size=3)
    assert [(one.logprob, one.index, one.item) for one in found] == [
        (-float(n), n - 1, 0) for n in range(1, 8)
    ]
    assert {body["prompt"] for body in server.bodies} == {"p"}
    assert sorted(len(body["completions"]) for body in server.bodies) == [1, 3, 3]


def test_requests_under_way_are_bounded(connect: Connect, server: AnsweringServer) -> None:
    client = connect(server.url, concurrency=3)
    items = [{"prompt": f"p{n}", "completion": "c"} for n in range(40)]
    server.gate.clear()
    opener = threading.Thread(target=open_when_three_wait, args=(server,))
    opener.start()
    assert len(client.score(items=items, batch_size=1, wait=True)) == 40
    opener.join()
    assert server.most == 3


def open_when_three_wait(server: AnsweringServer) -> None:
    until(lambda: server.most == 3)
    server.gate.set()


@pytest.mark.parametrize("beside", [{"prompt": "p"}, {"completion": "c"}])
def test_a_context_beside_items_is_refused(client: Any, beside: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="items"):
        client.score(items=[{"prompt": "p", "completion": "c"}], **beside)


def test_an_answer_that_is_not_of_a_score(client: Any, server: AnsweringServer) -> None:
    server.behave = lambda body: JSONResponse({"object": "list", "data": []})
    with pytest.raises(ServerError, match="not an answer of conf-server: object 'list'"):
        client.score(prompt="p", completion="c")


# Uncertainty


def test_an_uncertainty_and_its_options(client: Any, server: AnsweringServer) -> None:
    options = {"methods": ["p_true"], "n_samples": 5, "temperature": 0.5, "return_samples": True}
    beside = {"messages": [TURN], "max_tokens": 9, "answer": {"token_ids": [1]}, "seed": 1}
    found = client.uncertainty(**options, **beside, similarity=None)
    assert server.bodies == [{**beside, "uncertainty": options, "model": "m"}]
    assert found.estimates["p_true"] == Estimate(
        None, True, "more uncertain", {"p_true": 0.25}, "engine"
    )
    assert found.estimates["rauq"].backend == "scorer"
    assert found.unavailable == {"sar": "too long"}
    assert (found.samples[0].logprob, found.clusters) == (-1.0, (0,))
    assert found.raw["timings"] == {"total": 0.5}


def test_a_list_of_prompts_gives_a_list(client: Any, server: AnsweringServer) -> None:
    found = client.uncertainty(prompt=["a", "b", "c"], methods=["fast"])
    assert [one.answer.text for one in found] == ["a", "b", "c"]
    found = client.uncertainty(prompt=[[1, 2], [3]])
    assert [one.answer.text for one in found] == ["[1, 2]", "[3]"]


@pytest.mark.parametrize("ids", [[1, 2], [np.int64(1), np.int64(2)], np.array([1, 2])])
def test_a_list_of_token_ids_is_one_prompt(client: Any, ids: Any) -> None:
    assert client.uncertainty(prompt=ids).answer.text == "[1, 2]"


def test_items_have_what_is_their_own(client: Any, server: AnsweringServer) -> None:
    items = [{"prompt": "a", "answer": "x"}, {"prompt": "b", "methods": ["sar"]}]
    client.uncertainty(items=items, methods=["fast"], seed=1)
    common = {"seed": 1, "model": "m"}
    assert sorted(server.bodies, key=lambda body: body["prompt"]) == [
        {"prompt": "a", "answer": "x", "uncertainty": {"methods": ["fast"]}, **common},
        {"prompt": "b", "uncertainty": {"methods": ["sar"]}, **common},
    ]


def test_the_options_are_the_server_s() -> None:
    assert set(UncertaintyOptions.model_fields) == UNCERTAINTY_OPTIONS


def test_methods(client: Any) -> None:
    found = client.methods()
    assert found.available == ("sar",)
    assert found.all[1].reason == "has to be fitted"
    assert found.groups == {"all": ("sar",)}
    assert found.default_similarity == "jaccard"


# Chats


def test_a_chat_with_confidence(client: Any, server: AnsweringServer) -> None:
    found = client.chat(messages=[TURN], confidence={"mode": "per_token"}, n=2)
    assert server.bodies[0] == {
        **{"messages": [TURN], "confidence": {"mode": "per_token"}, "n": 2},
        "model": "m",
    }
    assert (found.text, found.finish_reason) == ("Hi", "stop")
    assert (found.tokens[0].confidence, found.tokens[0].logprob) == (4.5, None)
    assert found.confidence_summary == SUMMARY
    assert found.uncertainty["perplexity"].value == 1.5
    assert (found.choices[1].text, found.choices[1].tokens) == ("", None)


def chunk(text: str, **rest: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, **rest}]}


def test_a_streamed_chat(client: Any, server: AnsweringServer) -> None:
    last = {"finish_reason": "stop", "logprobs": {"content": [], "confidence_summary": SUMMARY}}
    server.events = [chunk("H"), chunk("i"), chunk("", **last), {"model": "m", "choices": []}]
    chunks = list(client.stream_chat(messages=[TURN], confidence={"mode": "stats"}))
    assert "".join(one.text for one in chunks) == "Hi"
    assert [one.confidence_summary for one in chunks] == [None, None, SUMMARY, None]
    assert server.bodies[0]["stream"] is True


def test_a_stream_that_ends_with_an_error(client: Any, server: AnsweringServer) -> None:
    server.events = [chunk("H"), {"error": {"message": "stopping", "code": 503}}]
    with pytest.raises(ServerError, match="stopping") as caught:
        list(client.stream_chat(messages=[TURN]))
    assert caught.value.status == 503


def test_chat_answers_whole(client: Any) -> None:
    with pytest.raises(TypeError, match="stream_chat"):
        client.chat(messages=[TURN], stream=True)


# Thinking


def test_a_chat_that_is_thought_about(client: Any, server: AnsweringServer) -> None:
    found = client.think(messages=[TURN], budget=8, top_k=40, think={"top_k": 20}, seed=1)
    assert server.bodies == [
        {
            **{"messages": [TURN], "top_k": 40, "seed": 1, "model": "m"},
            "think": {"top_k": 20, "budget": 8},
        }
    ]
    said = TURN["content"]
    assert (found.answer, found.text) == (said, f"So it is {said}.")
    assert (found.stopped_by, found.threshold) == ("budget", 9.5)
    assert found.groups == [AnswerGroup(said, 1, 10.0, (0,))]
    assert found.votes == {"majority": Vote(said, 1, None)}
    assert found.warnings == ("filter_relaxed",)
    assert [(one.phase, one.status, one.voted) for one in found.traces] == [
        ("warmup", "finished", True),
        ("final", "length", False),
    ]
    assert (found.traces[0].min_conf, found.traces[0].text) == (10.0, None)
    assert found.raw["think"]["usage"] == found.usage


def test_many_chats_that_are_thought_about(client: Any, server: AnsweringServer) -> None:
    items = [{"messages": [{"content": text}]} for text in "abc"]
    items[1]["budget"] = 3
    done: list[tuple[int, int]] = []
    found = client.think(items=items, budget=8, progress=lambda *told: done.append(told))
    assert [one.answer for one in found] == ["a", "b", "c"]
    asked = {body["messages"][0]["content"]: body["think"] for body in server.bodies}
    assert asked == {"a": {"budget": 8}, "b": {"budget": 3}, "c": {"budget": 8}}
    assert sorted(done)[-1] == (3, 3)


def test_a_trace_less_thought_has_no_traces(client: Any, server: AnsweringServer) -> None:
    bare = thought([], {"majority": None})
    del bare["think"]["traces"]
    server.behave = lambda body: JSONResponse(bare)
    found = client.think(messages=[TURN], traces="none")
    assert (found.answer, found.traces, found.groups) == (None, [], [])


def test_thinking_answers_whole(client: Any) -> None:
    with pytest.raises(TypeError, match=r"think\(\) answers whole"):
        client.think(messages=[TURN], stream=True)


# Hidden states


def test_hidden_states_are_arrays(client: Any, server: AnsweringServer) -> None:
    found = client.hidden_states(prompt="p", layers=[15, -1], attention={"layers": [2]})
    assert found.states.dtype == np.float32
    assert np.array_equal(found.states, STATES)
    assert found.layers == (15, 30)
    assert found.attention.keys() == {"weights"}
    assert found.attention["weights"].shape == (1, 6)
    items = [{"prompt": "p"}, {"prompt": "q", "completion": "c"}]
    assert [one.item for one in client.hidden_states(items=items, batch_size=1)] == [0, 1]


# The model


def test_the_model_is_asked_for_once(client: Any, server: AnsweringServer) -> None:
    client.score(items=[{"prompt": "p", "completion": "c"}] * 9, batch_size=1)
    client.score(prompt="p", completion="c")
    assert server.models_asked == 1
    assert (client.served_model().name, client.served_model().root) == ("m", "/models/m")


def test_a_model_that_is_given(connect: Connect, server: AnsweringServer) -> None:
    client = connect(f"{server.url}/v1/", model="lora")
    client.score(prompt="p", completion="c")
    assert (server.bodies[0]["model"], server.models_asked) == ("lora", 0)
    assert client.served_model().name == "lora"
    with pytest.raises(ServerError, match="no model 'other'"):
        connect(server.url, model="other").served_model()


# Tables


def test_tables(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    rows = client.score(prompt="p", completions=["a", ""]).to_pandas()
    assert [row["logprob"] for row in rows] == [-1.0, None]
    assert rows[0]["uncertainty.perplexity"] == 1.5
    assert rows[0]["mean_confidence"] == 5.25
    found = client.uncertainty(prompt=["a"])
    assert found.to_pandas()[0]["rauq"] == 1.5
    assert [row["method"] for row in found[0].to_pandas()] == ["p_true", "rauq"]
    assert client.methods().to_pandas()[0]["name"] == "sar"
    found = client.think(items=[{"messages": [TURN]}])
    assert found.to_pandas()[0]["vote.majority"] == TURN["content"]
    assert [row["index"] for row in found[0].traces.to_pandas()] == [0, 1]
    assert client.chat(messages=[TURN]).tokens.to_pandas()[0]["confidence"] == 4.5


def test_a_table_without_pandas(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        client.methods().to_pandas()
