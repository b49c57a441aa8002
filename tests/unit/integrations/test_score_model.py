"""What lm-eval's model `conf-score` sends, and what it makes of the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from conf_server.client import ServerError
from tests.unit.batch.fake_server import error
from tests.unit.integrations.scoring_server import MAX_MODEL_LEN, ScoringServer, logprob

pytest.importorskip(
    "lm_eval", reason="lm-eval is not installed: pip install 'conf-server[lm-eval]'"
)

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from conf_server.integrations.lm_eval import ConfScore

BOS = 1
LONG = " one two three" * 40
Connect = Callable[..., ConfScore]


@pytest.fixture
def connect(scoring_server: ScoringServer) -> Connect:
    return lambda **options: ConfScore(base_url=f"{scoring_server.url}/v1", **options)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, given, n) for n, given in enumerate(arguments)]


def pairs(*arguments: tuple[str, str]) -> list[Instance]:
    return instances("loglikelihood", *arguments)


def test_importing_the_package_registers_the_model() -> None:
    assert get_model("conf-score") is ConfScore


def test_all_choices_of_a_question_travel_in_one_request(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    asked = [(f"Question {number}?", f" {choice}") for choice in "ABCD" for number in range(5)]
    answers = connect().loglikelihood(pairs(*asked))
    assert len(scoring_server.bodies) == 5
    assert {len(item["completions"]) for item in scoring_server.items()} == {4}
    encode = scoring_server.tokenizer.encode
    assert answers == [
        (logprob(encode(context), encode(choice)), True) for context, choice in asked
    ]


def test_a_request_has_as_many_contexts_as_the_batch_size_says(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    asked = [(f"Question {number}?", f" {choice}") for number in range(5) for choice in "AB"]
    connect(batch_size=2).loglikelihood(pairs(*asked))
    assert sorted(len(body["items"]) for body in scoring_server.bodies) == [1, 2, 2]


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    connect().loglikelihood(pairs(("The capital is ", "Rome")))
    encode = scoring_server.tokenizer.encode
    context = encode("The capital is")
    (item,) = scoring_server.items()
    assert item["prompt"] == context
    assert item["completions"] == [encode("The capital is Rome")[len(context) :]]


@pytest.mark.parametrize(("options", "prefix"), [({}, BOS), ({"prefix_token_id": 7}, 7)])
def test_an_empty_context_is_the_prefix_token(
    connect: Connect, scoring_server: ScoringServer, options: dict[str, Any], prefix: int
) -> None:
    connect(**options).loglikelihood(pairs(("", "Rome")))
    (item,) = scoring_server.items()
    assert item == {"prompt": [prefix], "completions": [scoring_server.tokenizer.encode("Rome")]}


def test_a_text_has_no_more_tokens_than_the_server_scores(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    connect().loglikelihood(pairs((LONG, " and four")))
    (item,) = scoring_server.items()
    whole = scoring_server.tokenizer.encode(LONG + " and four")
    assert item["prompt"] + item["completions"][0] == whole[-(MAX_MODEL_LEN - 1) :]


def test_a_long_text_is_read_in_windows(connect: Connect, scoring_server: ScoringServer) -> None:
    """Each token is predicted once, and all but the first window are as long as they may be."""
    texts = instances("loglikelihood_rolling", (LONG,), ("",), ("Rome",))
    long, empty, rome = connect(max_length=50, num_concurrent=1).loglikelihood_rolling(texts)
    windows = [
        (item["prompt"], ids) for item in scoring_server.items() for ids in item["completions"]
    ]
    encode = scoring_server.tokenizer.encode
    assert ([BOS], encode("Rome")) in windows
    windows.remove(([BOS], encode("Rome")))
    whole = encode(LONG)
    assert [ids for _, ids in windows] == [whole[:50], whole[50:100], whole[100:]]
    assert [context for context, _ in windows] == [[BOS], [whole[49]], whole[len(whole) - 51 : 100]]
    assert long == pytest.approx(sum(logprob(*window) for window in windows))
    assert (empty, rome) == (0.0, logprob([BOS], encode("Rome")))


def test_texts_are_generated_from_token_ids_up_to_a_stop_sequence(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    scoring_server.text = " Rome\n\nQ: and"
    options = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}
    asked = instances("generate_until", ("Q: Italy?\nA:", options), (LONG, options))
    assert connect(max_length=50).generate_until(asked) == [" Rome", " Rome"]
    short, long = sorted(scoring_server.bodies, key=lambda body: len(body["prompt"]))
    encode = scoring_server.tokenizer.encode
    assert (short["prompt"], long["prompt"]) == (encode("Q: Italy?\nA:"), encode(LONG)[-42:])
    sent = {name: short[name] for name in ("model", "max_tokens", "stop", "temperature")}
    assert sent == {"model": "m", "max_tokens": 8, "stop": ["\n\n"], "temperature": 0.0}
    assert "do_sample" not in short


def test_what_a_task_says_of_sampling_is_sent(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    options = {"until": "x", "temperature": 0.7, "top_p": 0.9, "do_sample": True}
    connect(seed=5, max_gen_toks=9).generate_until(instances("generate_until", ("Q", options)))
    (body,) = scoring_server.bodies
    sent = {name: body[name] for name in ("temperature", "top_p", "seed", "max_tokens")}
    assert sent == {"temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 9}


def test_what_was_thought_before_an_answer_is_left_out(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    scoring_server.text = "Hm.</think> Rome"
    asked = instances("generate_until", ("Q", {"until": []}))
    assert connect(think_end_token="</think>", max_gen_toks=9).generate_until(asked) == ["Rome"]


def test_chats_are_rendered_by_the_model_s_template(
    connect: Connect, scoring_server: ScoringServer
) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    render = scoring_server.tokenizer.apply_chat_template
    model = connect()
    ended = render(chat, tokenize=False, add_generation_prompt=True)
    assert model.apply_chat_template(chat) == ended
    left_open = model.apply_chat_template(chat, add_generation_prompt=False)
    assert left_open.endswith("assistant\nWell")
    assert model.chat_template(True) == scoring_server.tokenizer.chat_template
    assert model.tokenizer_name == scoring_server.root.replace("/", "__")


def test_answers_are_kept_as_they_come(connect: Connect, scoring_server: ScoringServer) -> None:
    """An evaluation that breaks off goes on from lm-eval's cache."""
    model, kept = connect(num_concurrent=1), []
    hook = type("Hook", (), {"add_partial": lambda _, *answer: kept.append(answer)})()
    model.set_cache_hook(hook)
    scoring_server.behave = lambda body: (
        error(400, "enough") if len(scoring_server.bodies) > 1 else None
    )
    with pytest.raises(ServerError, match="enough"):
        model.loglikelihood(pairs(("Italy?", " Rome"), ("France?", " Paris")))
    (answer,) = kept
    assert answer[:2] == ("loglikelihood", ("Italy?", " Rome"))


def test_a_number_that_is_not_finite_ends_the_evaluation(
    connect: Connect, scoring_server: ScoringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = connect()
    monkeypatch.setattr("tests.unit.integrations.scoring_server.logprob", lambda *_: None)
    with pytest.raises(ValueError, match="no finite log-probability"):
        model.loglikelihood(pairs(("Italy?", " Rome")))


def test_the_key_comes_from_the_environment(
    connect: Connect, scoring_server: ScoringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval writes a model's arguments into its results."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    connect().loglikelihood(pairs(("Italy?", " Rome")))
    assert scoring_server.keys == ["Bearer secret"]


def test_a_request_is_sent_again_while_the_server_is_busy(
    connect: Connect, scoring_server: ScoringServer, caplog: pytest.LogCaptureFixture
) -> None:
    model = connect()
    scoring_server.behave = lambda body: (
        error(503, "busy") if len(scoring_server.bodies) == 1 else None
    )
    with caplog.at_level(logging.WARNING):
        assert model.loglikelihood(pairs(("Italy?", " Rome")))[0][1]
    assert "busy" in caplog.text
