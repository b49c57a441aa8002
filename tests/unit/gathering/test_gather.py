"""What a backend is asked for the methods that are chosen, and what becomes of its answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conf_server.backends.base import Ask, Chat, Completion, LabelQuestion, Plain
from conf_server.backends.dummy import DummyBackend
from conf_server.backends.dummy_numbers import LIMITS
from conf_server.gathering.inquiry import Relevance
from conf_server.heads.luh_config import Extractor
from conf_server.settings import ConfidenceSettings
from conf_server.stats.forced import WantedAttention, WantedStates
from conf_server.uncertainty import prompts
from conf_server.uncertainty.registry import METHODS
from tests.unit.gathering.inquiries import CHAT, QUESTION, inquire
from tests.unit.gathering.made_up_heads import head
from tests.unit.uncertainty.fits import fit


def capital(prompt: str, number: int) -> str:
    return ("It is Paris.", "It is Lyon.")[number % 2]


def asked(backend: DummyBackend, method: str) -> dict[str, Any]:
    """What was asked by a method, by the stage that asked it."""
    return {
        caller.removeprefix("request-"): what
        for how, caller, what in backend.asked
        if how == method
    }


async def test_an_answer_alone_costs_one_generation() -> None:
    backend = DummyBackend(capital)
    answered = await inquire(backend, ["fast"])
    ((how, caller, ask),) = backend.asked
    assert (how, caller) == ("generate", "request-answer")
    assert (ask.n, ask.temperature, ask.prompt) == (1, 0.0, CHAT)
    rows = answered.outcome.gathered.answer.rows
    expected = -float(rows.logprobs.sum())
    assert answered.outcome.estimates["maximum_sequence_probability"].value == pytest.approx(
        expected
    )
    assert answered.outcome.stages.tokens["answer"]["completion_tokens"] == 3
    assert answered.outcome.gathered.model == "dummy"


async def test_samples_are_the_models_own_unless_the_client_says_otherwise() -> None:
    backend = DummyBackend(capital)
    await inquire(
        backend, ["semantic_entropy"], similarity="jaccard", options={"top_p": 0.5, "top_k": None}
    )
    ask = asked(backend, "generate")["samples"]
    assert (ask.n, ask.temperature) == (2, 1.0)
    assert ask.options["top_p"] == 0.5
    assert ask.options["top_k"] == 0
    assert ask.options["repetition_penalty"] == 1.0


async def test_every_method_can_be_had_from_a_backend_that_can_do_all() -> None:
    backend = DummyBackend(capital)
    backend.known = replace(backend.known, max_len=512)
    trained = head(Extractor("basic_hidden_states", {}))
    answered = await inquire(backend, ["all"], similarity="rouge_l", fitted=fit(), head=trained)
    assert not answered.outcome.unavailable
    assert set(answered.outcome.estimates) == set(METHODS)


async def test_prompts_of_ours_quote_what_the_renderer_read_without_instructions() -> None:
    turns = [("system", "Be brief."), ("developer", "Be kind."), ("user", QUESTION)]
    chat = Chat(tuple({"role": role, "content": text} for role, text in turns))
    backend = DummyBackend(capital)
    await inquire(backend, ["p_true", "verbalized_1s"], prompt=chat)
    label: LabelQuestion = asked(backend, "labels")["p_true"]
    assert isinstance(label.prompt, Chat)
    (message,) = label.prompt.messages
    assert message["content"] == prompts.p_true(QUESTION, "It is Paris.").text
    assert label.labels == ("True", "False")
    stated: Ask = asked(backend, "generate")["verbalized_1s"]
    assert isinstance(stated.prompt, Chat)
    assert stated.prompt.messages[-1]["content"] == prompts.verbalized_1s(QUESTION)


async def test_a_conversation_is_quoted_with_its_roles() -> None:
    turns = [("user", "Hello."), ("assistant", "Hi."), ("user", QUESTION)]
    chat = Chat(tuple({"role": role, "content": text} for role, text in turns))
    backend = DummyBackend(capital)
    await inquire(backend, ["p_true"], prompt=chat)
    label: Any = asked(backend, "labels")["p_true"].prompt
    conversation = f"user: Hello.\nassistant: Hi.\nuser: {QUESTION}"
    assert label.messages[0]["content"] == prompts.p_true(conversation, "It is Paris.").text


async def test_a_client_s_texts_are_forced_in_place_of_generated_ones() -> None:
    backend = DummyBackend(capital)
    answered = await inquire(
        backend,
        ["perplexity", "monte_carlo_sequence_entropy"],
        answer=Completion("It is Rome."),
        samples=[Completion("It is Nice."), Completion("It is Paris.", finished=True)],
    )
    assert not asked(backend, "generate")
    assert asked(backend, "force") == {"answer": ["answer"], "samples": ["samples.0", "samples.1"]}
    assert answered.outcome.gathered.answer.text == "It is Rome."
    assert [sample.finish_reason for sample in answered.outcome.gathered.samples] == [None, "stop"]


async def test_token_ids_are_compared_by_their_text() -> None:
    backend = DummyBackend(capital)
    ids = tuple(backend.ids("It is Nice."))
    answered = await inquire(
        backend,
        ["lexical_similarity_rougeL"],
        answer=Completion("It is Rome."),
        samples=[Completion(ids), Completion(ids)],
    )
    assert [sample.text for sample in answered.outcome.gathered.samples] == ["It is Nice."] * 2
    assert answered.outcome.estimates["lexical_similarity_rougeL"].value == pytest.approx(-1)


async def test_an_answer_on_its_own_has_no_first_token() -> None:
    backend = DummyBackend(capital)
    answered = await inquire(backend, ["mean_pointwise_mutual_information"])
    alone = answered.outcome.gathered.evidence.unconditional_logprobs
    assert alone is not None
    assert np.isnan(alone[0])
    assert alone[1:] == pytest.approx(answered.outcome.gathered.answer.rows.logprobs[1:])


async def test_too_much_to_compare_costs_its_methods_and_no_others() -> None:
    answered = await inquire(
        DummyBackend(capital),
        ["perplexity", "deg_mat"],
        similarity="jaccard",
        settings=ConfidenceSettings(max_judged_characters=10),
    )
    assert set(answered.outcome.estimates) == {"perplexity"}
    assert "--max-judged-characters" in answered.outcome.unavailable["deg_mat"]


@pytest.mark.parametrize(("similarity", "fits"), [("jaccard", True), ("self_nli", False)])
async def test_what_a_judge_reads_beside_the_texts_counts_too(similarity: str, fits: bool) -> None:
    """Two pairs of short texts; the served model is shown the question and our own words."""
    answered = await inquire(
        DummyBackend(capital),
        ["deg_mat"],
        similarity=similarity,
        settings=ConfidenceSettings(max_judged_characters=300),
    )
    assert ("deg_mat" in answered.outcome.estimates) is fits


@pytest.mark.parametrize(
    ("relevance", "similarities"),
    [
        # Of the words of question and answer one goes; "is" stays, as the question has it too.
        ("with_question", [7 / 8, 1, 7 / 8]),
        ("answer_only", [2 / 3, 2 / 3, 2 / 3]),
    ],
)
async def test_tokens_are_compared_with_the_question_in_front_or_alone(
    relevance: Relevance, similarities: list[float]
) -> None:
    answered = await inquire(
        DummyBackend(capital), ["token_sar"], similarity="jaccard", relevance=relevance
    )
    found = answered.outcome.gathered.evidence.answer_token_similarity
    assert found == pytest.approx(similarities)


async def test_a_judge_that_shows_the_question_does_not_read_it_twice() -> None:
    backend = DummyBackend(capital)
    await inquire(backend, ["token_sar"], similarity="self_nli")
    judged = [what for how, _, what in backend.asked if how == "labels"]
    assert [what.prompt.messages[0]["content"].count(QUESTION) for what in judged] == [1, 1, 1]


async def test_pairs_are_judged_by_the_model_and_told_one_by_one() -> None:
    backend = DummyBackend(capital)
    answered = await inquire(backend, ["deg_mat"], similarity="self_nli")
    judged = [what for how, _, what in backend.asked if how == "labels"]
    assert len(judged) == 2  # of two distinct texts, both ways
    assert all(QUESTION in question.prompt.messages[0]["content"] for question in judged)
    assert ("judgements", 0, 2) in answered.progress
    assert answered.outcome.stages.tokens["judgements"]["prompt_tokens"] == 16


async def test_the_second_turn_follows_the_clients_messages_and_the_answer() -> None:
    backend = DummyBackend(capital)
    open_chat = Chat(
        ({"role": "user", "content": QUESTION}, {"role": "assistant", "content": "I think: "}),
        add_generation_prompt=False,
        continue_final_message=True,
    )
    for prompt, said in ((CHAT, "It is Paris."), (open_chat, "I think: It is Paris.")):
        await inquire(backend, ["verbalized_2s"], prompt=prompt)
        stated: Any = asked(backend, "generate")["verbalized_2s"]
        roles = [message["role"] for message in stated.prompt.messages]
        assert roles == ["user", "assistant", "user"]
        assert stated.prompt.messages[1]["content"] == said
        assert not stated.prompt.continue_final_message


async def test_a_plain_prompt_is_quoted_as_it_is() -> None:
    backend = DummyBackend(capital)
    await inquire(backend, ["p_true"], prompt=Plain("The capital of France"))
    label: LabelQuestion = asked(backend, "labels")["p_true"]
    text = prompts.p_true("The capital of France", "It is Paris.").text
    assert label == LabelQuestion(Plain(text), (" True", " False"))


async def test_states_of_samples_are_those_before_their_last_token() -> None:
    """The dummy has i + 0.01 for token i in each of 3 numbers of the middle layer, 1 of 2."""
    backend = DummyBackend(capital)
    answered = await inquire(backend, ["eigenscore"], n_samples=2)
    states = answered.outcome.gathered.evidence.sample_states
    assert states is not None
    last_but_one = backend.ids("It is")[-1]
    np.testing.assert_allclose(states, np.full((2, 3), last_but_one + 0.01), rtol=0, atol=1e-5)
    assert answered.outcome.estimates["eigenscore"].value is not None
    spent = answered.outcome.stages.tokens["sample_states"]["prompt_tokens"]
    assert spent == 2 * (len(backend.ids(QUESTION)) + 2)


async def test_a_clients_samples_have_states_too() -> None:
    backend = DummyBackend(capital)
    answer, *samples = (Completion(text) for text in ("It is Paris.", "Paris I say", "Lyon I say"))
    answered = await inquire(backend, ["eigenscore"], answer=answer, samples=tuple(samples))
    states = answered.outcome.gathered.evidence.sample_states
    assert states is not None
    assert states.shape == (2, 3)
    assert states[0, 0] == pytest.approx(backend.ids("Paris I")[-1] + 0.01, abs=1e-5)


async def test_attention_of_the_answer_is_that_before_each_of_its_tokens() -> None:
    """The dummy pays 1 / (i + 2) from token i to itself in the first head, in every layer."""
    backend = DummyBackend(capital)
    answered = await inquire(backend, ["rauq", "attention_score_gen_only"])
    attention = answered.outcome.gathered.evidence.answer_attention
    assert attention is not None
    ids = backend.ids("It is Paris.")
    assert attention.own[:, :, 0] == pytest.approx(
        np.tile([1 / (i + 2) for i in ids[:-1]], (len(attention.own), 1)), abs=1e-6
    )
    (wanted,) = asked(backend, "states").values()
    assert wanted == WantedStates((), completion_only=True, attention=WantedAttention((0, 1)))
    assert attention.middle == 1
    for name in ("rauq", "attention_score_gen_only"):
        assert answered.outcome.estimates[name].value is not None


async def test_an_answer_of_one_token_attends_to_nothing_before_it() -> None:
    backend = DummyBackend(lambda prompt, number: "Paris.")
    answered = await inquire(backend, ["rauq", "attention_score_gen_only"])
    assert "states" not in [how for how, *_ in backend.asked]
    logprob = float(answered.outcome.gathered.answer.rows.logprobs[0])
    assert answered.outcome.estimates["rauq"].value == pytest.approx(1 - logprob)
    assert answered.outcome.estimates["attention_score_gen_only"].value == 0


async def test_attention_of_prompt_and_answer() -> None:
    backend = DummyBackend(capital)
    answered = await inquire(backend, ["attention_score"], answer=Completion("It is Lyon."))
    own = answered.outcome.gathered.evidence.self_attention
    assert own is not None
    ids = [*backend.ids(QUESTION), *backend.ids("It is Lyon.")]
    assert own[:, 0] == pytest.approx([1 / (i + 2) for i in ids], abs=1e-6)


async def test_what_the_model_looks_at_when_it_judges() -> None:
    backend = DummyBackend(capital, replace(LIMITS, max_len=500))
    answered = await inquire(backend, ["csl"])
    weights = answered.outcome.gathered.evidence.judging_attention
    assert weights is not None
    ids = np.array(backend.ids("It is Paris."))
    assert weights == pytest.approx((1 / (ids + 2) + 1 / (ids + 3)) / 2, abs=1e-6)
    logprobs = answered.outcome.gathered.answer.rows.logprobs
    expected = -float(logprobs @ weights / weights.sum())
    assert answered.outcome.estimates["csl"].value == pytest.approx(expected, rel=1e-5)


async def test_a_text_too_long_to_be_read_again_costs_its_methods_alone() -> None:
    backend = DummyBackend(capital, replace(LIMITS, max_len=9))
    answered = await inquire(backend, ["attention_score", "perplexity"])
    assert "9 tokens to read, at most 8" in answered.outcome.unavailable["attention_score"]
    assert answered.outcome.estimates["perplexity"].value is not None


async def test_samples_of_one_token_without_a_prompt_have_no_state_before_them() -> None:
    backend = DummyBackend(lambda prompt, number: "Paris.")
    answered = await inquire(backend, ["eigenscore"], prompt=Plain(()))
    assert "without a prompt" in answered.outcome.unavailable["eigenscore"]


async def test_alpha_of_the_client() -> None:
    values = []
    for alpha in (None, 0.5, 0.2):
        answered = await inquire(DummyBackend(capital), ["rauq"], rauq_alpha=alpha)
        values.append(answered.outcome.estimates["rauq"].value)
    assert values[0] == values[1]  # the dummy has a chat template
    assert values[1] != values[2]
