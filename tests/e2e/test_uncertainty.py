"""POST /v1/uncertainty on the real server, against transformers in float32."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conf_server.judges.embedding import EmbeddingModel
from conf_server.uncertainty import parsing, prompts
from conf_server.uncertainty.evidence import Evidence, Generation
from conf_server.uncertainty.fitted import FITTABLE
from conf_server.uncertainty.pairs import assemble, from_similarities, unique_pairs
from conf_server.uncertainty.registry import METHODS
from conf_server.uncertainty.words.overlap import jaccard
from tests.reference import Reference, metrics_by_definition
from tests.server import Server
from tests.trace_sink import TraceSink

QUESTION = "What is the capital of France?"
CHAT = [{"role": "user", "content": QUESTION}]
ANSWER = "It is Paris."
SAMPLES = ["Paris.", "The city of Lyon.", "Paris."]


def ask(server: Server, **body: Any) -> dict[str, Any]:
    response = server.post("/v1/uncertainty", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def catalogue(server: Server) -> dict[str, Any]:
    with server.http() as http:
        listed: dict[str, Any] = http.get("/v1/uncertainty/methods").json()
    return listed


def values(answer: dict[str, Any]) -> dict[str, float]:
    assert all(estimate["exact"] for estimate in answer["estimates"].values())
    return {name: estimate["value"] for name, estimate in answer["estimates"].items()}


def chat_ids(reference: Reference, *turns: str) -> list[int]:
    """A rendered chat, ready for the assistant's answer."""
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    ids: list[int] = reference.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ids


def plain_ids(reference: Reference, text: str) -> list[int]:
    ids: list[int] = reference.tokenizer(text)["input_ids"]
    return ids


def forced(reference: Reference, context: list[int], text: str) -> NDArray[np.float64]:
    """Log-probabilities of a text's tokens after a context."""
    ids = plain_ids(reference, text)
    return reference.token_logprobs([*context, *ids])[-len(ids) :]


def label_logprobs(reference: Reference, prompt: prompts.LabelPrompt) -> list[float]:
    """Those of the labels, asked for as a chat."""
    row = reference.logprobs([*chat_ids(reference, prompt.text), 0])[-1]
    return [float(row[plain_ids(reference, label.strip())[0]]) for label in prompt.labels]


def test_a_clients_template_renders_our_prompts_too(server: Server, reference: Reference) -> None:
    answer = ask(
        server,
        messages=CHAT,
        chat_template="{{ messages[-1].content }} So:",
        answer=ANSWER,
        uncertainty={"methods": ["p_true"]},
    )
    prompt = prompts.p_true(QUESTION, ANSWER)
    row = reference.logprobs([*plain_ids(reference, f"{prompt.text} So:"), 0])[-1]
    true, false = (float(row[plain_ids(reference, label.strip())[0]]) for label in prompt.labels)
    expected = METHODS["p_true"].estimate(Evidence(p_true_logprobs=(true, false)))
    assert values(answer)["p_true"] == pytest.approx(expected.value, abs=1e-3)


def test_fast_methods_are_those_of_the_greedy_answer(server: Server, reference: Reference) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 8}
    answer = ask(server, **body)
    greedy = server.post(
        "/v1/completions", body | {"temperature": 0, "return_token_ids": True}
    ).json()["choices"][0]
    assert answer["answer"] == {
        "text": greedy["text"],
        "finish_reason": "length",
        "num_tokens": 8,
    }
    ids = greedy["prompt_token_ids"] + greedy["token_ids"]
    expected = metrics_by_definition(reference.logprobs(ids)[-8:], greedy["token_ids"])
    assert values(answer) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    directions = {estimate["higher_is"] for estimate in answer["estimates"].values()}
    assert directions == {"more uncertain"}
    # Nothing but the answer was worked on.
    assert set(answer["usage"]["stages"]) == {"answer"}
    assert answer["usage"]["completion_tokens"] == 8
    assert "samples" not in answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "asked",
    [{"prompt": [504] * 2018}, {"messages": [{"role": "user", "content": " hello" * 1990}]}],
)
def test_without_a_length_an_answer_has_the_room_that_is_left(
    server: Server, asked: dict[str, Any], stream: bool
) -> None:
    response = server.post("/v1/uncertainty", asked | {"ignore_eos": True, "stream": stream})
    *_, result = response.text.strip().removesuffix("data: [DONE]").strip().split("\n\n")
    body = json.loads(result.removeprefix("data: "))
    assert body["answer"]["finish_reason"] == "length"
    assert body["answer"]["num_tokens"] == 2048 - body["usage"]["prompt_tokens"]


def test_a_clients_answer_and_samples_are_forced(server: Server, reference: Reference) -> None:
    answer = ask(
        server,
        messages=CHAT,
        answer=ANSWER,
        samples=SAMPLES,
        uncertainty={
            "methods": [
                "perplexity",
                "mean_pointwise_mutual_information",
                "monte_carlo_sequence_entropy",
                "monte_carlo_normalized_sequence_entropy",
                "deg_mat",
                "consistency",
            ],
            "similarity": "jaccard",
            "return_samples": True,
        },
    )
    context = chat_ids(reference, QUESTION)
    own = forced(reference, context, ANSWER)
    alone = reference.token_logprobs(plain_ids(reference, ANSWER))
    samples = [forced(reference, context, sample) for sample in SAMPLES]
    texts = [ANSWER, *SAMPLES]
    pairs = unique_pairs(texts, symmetric=True)
    similarities = jaccard([(texts[i], texts[j]) for i, j in pairs])
    evidence = Evidence(
        answer=Generation(ANSWER, own),
        samples=tuple(Generation(t, rows) for t, rows in zip(SAMPLES, samples, strict=True)),
        unconditional_logprobs=np.concatenate(([np.nan], alone)),
        judgements=assemble(texts, pairs, from_similarities(similarities), symmetric=True),
        extracted_answers=tuple(map(parsing.extract_answer, SAMPLES)),
    )
    expected = {name: METHODS[name].estimate(evidence).value for name in answer["estimates"]}
    assert values(answer) == pytest.approx(expected, abs=1e-3)
    assert answer["answer"]["text"] == ANSWER
    assert [sample["text"] for sample in answer["samples"]] == SAMPLES
    assert [sample["logprob"] for sample in answer["samples"]] == pytest.approx(
        [rows.sum() for rows in samples], abs=1e-3
    )
    assert answer["usage"]["completion_tokens"] == 0


def test_the_model_is_its_own_judge(server: Server, reference: Reference) -> None:
    """self_nli and P(True) are log-probabilities of labels after our prompts."""
    answer = ask(
        server,
        messages=CHAT,
        answer=ANSWER,
        samples=SAMPLES,
        uncertainty={
            "methods": ["luq", "semantic_density", "p_true", "p_true_sampling"],
            "similarity": "self_nli",
        },
    )
    context = chat_ids(reference, QUESTION)
    texts = [ANSWER, *SAMPLES]
    pairs = unique_pairs(texts, symmetric=False)
    assert len(pairs) == 6  # of three distinct texts
    verdicts = []
    for i, j in pairs:
        labels = label_logprobs(reference, prompts.self_nli(texts[i], texts[j], QUESTION))
        verdicts.append(np.exp(labels) / np.exp(labels).sum())
    p_true = label_logprobs(reference, prompts.p_true(QUESTION, ANSWER))
    sampling = label_logprobs(reference, prompts.p_true_sampling(QUESTION, ANSWER, SAMPLES))
    evidence = Evidence(
        answer=Generation(ANSWER, forced(reference, context, ANSWER)),
        samples=tuple(Generation(t, forced(reference, context, t)) for t in SAMPLES),
        judgements=assemble(texts, pairs, verdicts, symmetric=False),
        p_true_logprobs=(p_true[0], p_true[1]),
        p_true_sampling_logprobs=(sampling[0], sampling[1]),
    )
    expected = {name: METHODS[name].estimate(evidence).value for name in answer["estimates"]}
    assert values(answer) == pytest.approx(expected, abs=1e-3)
    assert answer["similarity"] == "self_nli"


def test_a_sentence_model_judges(server: Server, sentence_model_path: Path) -> None:
    body = {
        "messages": CHAT,
        "answer": ANSWER,
        "samples": SAMPLES,
        "uncertainty": {"methods": ["deg_mat", "num_sem_sets"], "similarity": "embedding"},
    }
    answer = ask(server, **body)
    texts = [ANSWER, *SAMPLES]
    pairs = unique_pairs(texts, symmetric=True)
    model = EmbeddingModel(str(sentence_model_path))
    verdicts, _ = model.judge([(texts[i], texts[j]) for i, j in pairs])
    evidence = Evidence(
        samples=tuple(Generation(t, np.zeros(1)) for t in SAMPLES),
        judgements=assemble(texts, pairs, verdicts, symmetric=True),
    )
    expected = {name: METHODS[name].estimate(evidence).value for name in answer["estimates"]}
    assert values(answer) == pytest.approx(expected, abs=1e-3)
    # It reads 256 tokens.
    body["samples"] = ["Paris. " * 300, "Lyon."]
    assert not any(estimate["exact"] for estimate in ask(server, **body)["estimates"].values())


def test_what_no_method_reads_is_not_generated(server: Server) -> None:
    answer = ask(
        server,
        messages=CHAT,
        answer=ANSWER,
        uncertainty={"methods": ["p_true_empirical"], "n_samples": 3},
    )
    stages = answer["usage"]["stages"]
    assert set(stages) == {"answer", "p_true_samples"}
    assert 3 <= answer["usage"]["completion_tokens"] <= 3 * 8


def test_samples_that_nobody_scored_have_no_tokens(server: Server) -> None:
    (sample,) = ask(
        server,
        messages=CHAT,
        answer=ANSWER,
        samples=["Lyon."],
        uncertainty={
            "methods": ["lexical_similarity_rouge1"],
            "return_samples": True,
        },
    )["samples"]
    assert sample["text"] == "Lyon."
    assert sample["num_tokens"] is sample["logprob"] is sample["mean_logprob"] is None


def test_a_token_across_the_border_is_the_answers_as_far_as_it_goes(server: Server) -> None:
    """ " Paris" is one token: the blank is the prompt's."""
    answer = ask(
        server,
        prompt="The capital of France is ",
        answer="Paris, I think",
        uncertainty={"methods": ["token_sar"], "similarity": "rouge_l"},
    )
    assert answer["answer"]["num_tokens"] == 4
    assert answer["estimates"]["token_sar"]["value"] > 0


def test_more_to_compare_than_the_server_allows(server: Server) -> None:
    text = "The capital of France is Paris, and it has been so for a thousand years. " * 116
    answer = ask(
        server,
        messages=CHAT,
        answer=text,
        uncertainty={"methods": ["perplexity", "token_sar"], "similarity": "rouge_l"},
    )
    assert set(answer["estimates"]) == {"perplexity"}
    assert "--max-judged-characters" in answer["unavailable"]["token_sar"]


def test_what_methods_compare_is_counted_together(server: Server) -> None:
    """Each of the two needs half of what the server allows and a little more."""
    text = "The capital of France is Paris, and it has been so for a thousand years. " * 84
    answer = ask(
        server,
        messages=CHAT,
        answer=text,
        samples=[text + "No."],
        uncertainty={"methods": ["token_sar", "sar"], "similarity": "jaccard"},
    )
    assert set(answer["estimates"]) == {"token_sar"}
    assert "--max-judged-characters" in answer["unavailable"]["sar"]


@pytest.mark.only_vllm("structured outputs")
def test_a_grammars_log_probabilities_are_not_the_models(server: Server) -> None:
    """Statistics are taken before the mask, vLLM's log-probabilities after it."""
    answer = ask(
        server,
        messages=CHAT,
        max_tokens=4,
        structured_outputs={"choice": ["London", "Paris"]},
        uncertainty={"methods": ["perplexity", "mean_token_entropy"]},
    )
    assert answer["answer"]["text"] in ("London", "Paris")
    exact = {name: estimate["exact"] for name, estimate in answer["estimates"].items()}
    assert exact == {"perplexity": False, "mean_token_entropy": True}


def test_what_says_nothing_is_accepted(server: Server) -> None:
    """vLLM's own defaults, and null beside the field that is meant."""
    answer = ask(
        server,
        prompt="The capital of France is",
        messages=None,
        max_tokens=2,
        n=1,
        temperature=None,
        tools=[],
        logprobs=None,
        echo=False,
    )
    assert answer["answer"]["num_tokens"] == 2


def test_token_ids_are_a_question_too(server: Server, reference: Reference) -> None:
    body: dict[str, Any] = {"answer": " Paris.", "uncertainty": {"methods": ["p_true"]}}
    text = ask(server, prompt="The capital of France is", **body)
    ids = ask(server, prompt=plain_ids(reference, "The capital of France is"), **body)
    assert values(ids) == pytest.approx(values(text), abs=1e-4)


def test_samples_come_from_the_model_and_a_seed_brings_them_back(server: Server) -> None:
    body: dict[str, Any] = {
        "messages": CHAT,
        "max_tokens": 12,
        "uncertainty": {
            "methods": ["monte_carlo_sequence_entropy", "semantic_entropy"],
            "similarity": "rouge_l",
            "n_samples": 4,
            "return_samples": True,
        },
    }
    first, again, other = (ask(server, **body, seed=seed) for seed in (7, 7, 8))
    texts = [[sample["text"] for sample in answer["samples"]] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1
    sums = [sample["logprob"] for sample in first["samples"]]
    assert values(first)["monte_carlo_sequence_entropy"] == pytest.approx(-np.mean(sums))
    assert first["clusters"] == [sample["cluster"] for sample in first["samples"]]
    generated = sum(sample["num_tokens"] for sample in first["samples"])
    stages = first["usage"]["stages"]
    assert stages["samples"]["completion_tokens"] == generated
    assert first["usage"]["completion_tokens"] == generated + first["answer"]["num_tokens"]
    assert set(first["timings"]) == {"answer", "samples", "judgements", "estimates", "total"}


def test_all_that_the_server_can_do(server: Server) -> None:
    listed = catalogue(server)
    assert {method["name"] for method in listed["data"]} == set(METHODS)
    available = {method["name"] for method in listed["data"] if method["available"]}
    assert available == METHODS.keys() - FITTABLE.keys()
    assert listed["default_similarity"] == "self_nli"
    assert listed["similarities"] == [
        "embedding",
        "hidden_states",
        "jaccard",
        "rouge_l",
        "self_nli",
    ]
    answer = ask(
        server,
        messages=CHAT,
        max_tokens=6,
        seed=1,
        uncertainty={"methods": ["all"], "n_samples": 2, "similarity": "rouge_l"},
    )
    assert set(answer["estimates"]) == available
    assert set(answer["unavailable"]) == set(FITTABLE)
    for name, estimate in answer["estimates"].items():
        # What the small model says about itself may be unreadable.
        if name not in ("verbalized_1s", "verbalized_2s", "linguistic_1s", "consistency"):
            assert math.isfinite(estimate["value"]), name


def test_progress_is_streamed(server: Server) -> None:
    body = {
        "messages": CHAT,
        "max_tokens": 6,
        "stream": True,
        "uncertainty": {"methods": ["deg_mat"], "n_samples": 2, "similarity": "jaccard"},
    }
    response = server.post("/v1/uncertainty", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last = response.text.strip().split("\n\n")
    assert last == "data: [DONE]"
    bodies = [json.loads(event.removeprefix("data: ")) for event in events]
    *progress, result = bodies
    assert result["object"] == "uncertainty"
    assert set(result["estimates"]) == {"deg_mat"}
    assert [event["object"] for event in progress] == ["uncertainty.progress"] * len(progress)
    seen = [(event["stage"], event["done"], event["total"]) for event in progress]
    assert {("answer", 0, 1), ("answer", 1, 1), ("samples", 0, 2), ("samples", 2, 2)} <= set(seen)


def test_a_judges_progress_is_told_pair_by_pair(server: Server) -> None:
    body = {
        "messages": CHAT,
        "answer": ANSWER,
        "samples": SAMPLES,
        "stream": True,
        "uncertainty": {"methods": ["deg_mat"], "similarity": "self_nli"},
    }
    events = server.post("/v1/uncertainty", body).text.strip().split("\n\n")
    told = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    pairs = [(e["done"], e["total"]) for e in told if e["stage"] == "judgements"]
    assert pairs == [(done, 6) for done in range(7)]  # three distinct texts, both ways


def test_a_prompt_of_ours_that_is_too_long_costs_its_methods_and_no_others(server: Server) -> None:
    """Eleven answers fit the model one by one, not all of them in one question."""
    answer = ask(
        server,
        messages=CHAT,
        answer=ANSWER,
        samples=["Lyon, Paris, Nice. " * 40, "Paris. " * 300] * 4,
        uncertainty={
            "methods": ["p_true", "p_true_sampling", "num_sem_sets", "perplexity"],
            "similarity": "rouge_l",
        },
    )
    assert set(answer["estimates"]) == {"p_true", "num_sem_sets", "perplexity"}
    assert list(answer["unavailable"]) == ["p_true_sampling"]
    assert "too long" in answer["unavailable"]["p_true_sampling"]


def test_a_prompt_of_ours_that_leaves_no_room_is_too_long(
    server: Server, reference: Reference
) -> None:
    room = 2048 - len(chat_ids(reference, QUESTION, "", prompts.verbalized_2s()))
    words = next(n for n in range(room, 0, -1) if len(plain_ids(reference, "a" + " a" * n)) == room)
    text = "a" + " a" * words
    assert len(chat_ids(reference, QUESTION, text, prompts.verbalized_2s())) == 2048
    methods = ["perplexity", "verbalized_2s"]
    answer = ask(server, messages=CHAT, answer=text, uncertainty={"methods": methods})
    assert set(answer["estimates"]) == {"perplexity"}
    assert "too long" in answer["unavailable"]["verbalized_2s"]


def test_how_the_chat_is_rendered_holds_for_the_clients_answer_too(
    server: Server, reference: Reference
) -> None:
    answer = ask(server, messages=CHAT, answer=ANSWER, add_generation_prompt=False)
    context = reference.tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    expected = np.exp(-forced(reference, context, ANSWER).mean())
    assert values(answer)["perplexity"] == pytest.approx(expected, rel=1e-3)


def test_no_token_of_a_split_character_is_weightless(server: Server) -> None:
    """A sentence without blanks is one word, which no token can be taken from unnoticed."""
    answer = ask(
        server,
        messages=[{"role": "user", "content": "日本の首都はどこですか。"}],
        answer="日本の首都は東京です。",
        uncertainty={
            "methods": ["token_sar", "maximum_sequence_probability"],
            "similarity": "jaccard",
        },
    )
    found = values(answer)
    mean = found["maximum_sequence_probability"] / answer["answer"]["num_tokens"]
    assert answer["answer"]["num_tokens"] > len("日本の首都は東京です。")
    assert found["token_sar"] == pytest.approx(mean, rel=1e-4)


def test_the_stock_client_reaches_it(server: Server) -> None:
    with server.client() as client:
        answer = client.post(
            "/uncertainty",
            cast_to=dict[str, Any],  # type: ignore[arg-type]
            body={"messages": CHAT, "max_tokens": 4},
        )
    assert answer["object"] == "uncertainty"


@pytest.mark.only_vllm("adapters")
def test_an_adapters_answer(server: Server) -> None:
    body = {"prompt": "Once upon a time", "answer": " there was", "model": "adapter"}
    adapted, base = ask(server, **body), ask(server, **body | {"model": "smol"})
    assert (adapted["model"], base["model"]) == ("adapter", "smol")
    assert abs(values(adapted)["perplexity"] - values(base)["perplexity"]) > 0.1


def test_our_own_answer_sent_back_gives_the_same_numbers(server: Server) -> None:
    """The end-of-text token is one of the answer's tokens, wherever the answer comes from."""
    methods = {"methods": ["fast"]}
    own = ask(server, messages=CHAT, max_tokens=32, uncertainty=methods)
    assert own["answer"]["finish_reason"] == "stop"
    text = own["answer"]["text"]
    finished = {"text": text, "finished": True}
    again = ask(server, messages=CHAT, answer=finished, uncertainty=methods)
    assert again["answer"] == own["answer"]
    assert values(again) == pytest.approx(values(own), abs=1e-3)
    open_ended = ask(server, messages=CHAT, answer=text, uncertainty=methods)
    assert open_ended["answer"]["num_tokens"] == own["answer"]["num_tokens"] - 1
    assert open_ended["answer"]["finish_reason"] is None


def test_samples_may_be_token_ids(server: Server, reference: Reference) -> None:
    """ " P" and "aris" are tokens that no tokenizer makes of " Paris"."""
    ids = plain_ids(reference, " P") + plain_ids(reference, "aris")
    assert ids != plain_ids(reference, " Paris")
    answer = ask(
        server,
        prompt="The capital of France is",
        answer={"token_ids": ids},
        samples=[{"token_ids": ids, "finished": True}, " Paris"],
        uncertainty={
            "methods": ["maximum_sequence_probability", "monte_carlo_sequence_entropy"],
            "return_samples": True,
        },
    )
    context = plain_ids(reference, "The capital of France is")
    own = reference.token_logprobs([*context, *ids])[-len(ids) :]
    value = answer["estimates"]["maximum_sequence_probability"]["value"]
    assert value == pytest.approx(-own.sum(), abs=1e-3)
    assert answer["answer"]["text"] == " Paris"
    assert [sample["text"] for sample in answer["samples"]] == [" Paris", " Paris"]
    end = reference.tokenizer.eos_token_id
    whole = reference.token_logprobs([*context, *ids, end])[-len(ids) - 1 :].sum()
    assert answer["samples"][0]["logprob"] == pytest.approx(whole, abs=1e-3)
    assert answer["samples"][0]["num_tokens"] == len(ids) + 1


QUOTING = ["p_true", "p_true_sampling", "p_true_empirical", "verbalized_1s", "linguistic_1s"]


def test_parts_of_a_message_are_quoted_as_they_were_rendered(server: Server) -> None:
    parts = [{"type": "text", "text": text} for text in ("What is the capital", "of France?")]
    whole = "What is the capital\nof France?"
    answers = [
        ask(
            server,
            messages=[{"role": "user", "content": content}],
            answer=ANSWER,
            samples=SAMPLES,
            seed=1,
            uncertainty={"methods": [*QUOTING, "deg_mat"], "similarity": "self_nli"},
        )
        for content in (parts, whole)
    ]
    tokens = [
        {stage: spent["prompt_tokens"] for stage, spent in answer["usage"]["stages"].items()}
        for answer in answers
    ]
    assert tokens[0] == tokens[1]
    labels = ("p_true", "p_true_sampling", "deg_mat")
    first, second = ({name: values(answer)[name] for name in labels} for answer in answers)
    assert first == pytest.approx(second, abs=1e-3)


def test_instructions_are_no_part_of_the_question(server: Server, reference: Reference) -> None:
    instructions = [{"role": role, "content": "Be brief."} for role in ("system", "developer")]
    answer = ask(
        server,
        messages=[*instructions, *CHAT],
        answer=ANSWER,
        uncertainty={"methods": ["p_true"]},
    )
    true, false = label_logprobs(reference, prompts.p_true(QUESTION, ANSWER))
    assert values(answer)["p_true"] == pytest.approx(-true, abs=1e-3)
    share = math.exp(true) / (math.exp(true) + math.exp(false))
    details = answer["estimates"]["p_true"]["details"]
    assert details == {"p_true": pytest.approx(share, abs=1e-3)}


@pytest.mark.only_vllm("traces")
def test_work_in_the_engine_is_named_after_the_request(server: Server, traces: TraceSink) -> None:
    ask(
        server,
        messages=CHAT,
        max_tokens=4,
        request_id="traced",
        uncertainty={
            "methods": ["p_true", "semantic_entropy"],
            "similarity": "rouge_l",
            "n_samples": 2,
        },
    )
    assert traces.request_ids("uncertainty-traced", 4) == [
        "uncertainty-traced-answer",
        "uncertainty-traced-p_true-0",
        "uncertainty-traced-samples",
        "uncertainty-traced-samples",
    ]
