from __future__ import annotations

import math

import numpy as np
import pytest

from conf_server.client import Client
from conf_server.integrations import polygraph_generation
from conf_server.integrations.polygraph_generation import (
    Decoding,
    continuation_logprobs,
    forced_distributions,
    forced_log_likelihoods,
    generated,
    without_tokens,
)
from tests.unit.integrations.small_model_server import END, ENTROPY, LOGPROBS, SmallModelServer

ALLOWED = [0, 2, 3, 4]
CONDITIONED = LOGPROBS - np.log(np.exp(LOGPROBS[ALLOWED]).sum())
"""What the model says where it may not end."""
CONDITIONED_ENTROPY = -float(np.sum(np.exp(CONDITIONED) * CONDITIONED, where=[1, 0, 1, 1, 1]))


def test_numbers_are_those_of_the_servers_answer(client: Client) -> None:
    ((answer,),) = generated(client, [[7, 8]], Decoding(max_new_tokens=3), candidates=2)
    assert answer.tokens == (0, 2, END)
    assert answer.log_likelihoods == pytest.approx(LOGPROBS[[0, 2, END]])
    assert answer.entropies == pytest.approx([ENTROPY] * 3)
    assert answer.candidates[0] == (
        (0, pytest.approx(LOGPROBS[0])),
        (1, pytest.approx(LOGPROBS[1])),
    )


def test_the_first_tokens_numbers_are_under_the_condition_that_no_end_is_chosen(
    client: Client,
) -> None:
    decoding = Decoding(max_new_tokens=3, min_new_tokens=2)
    ((answer,),) = generated(client, [[7]], decoding, candidates=2, end_ids=[END])
    assert answer.log_likelihoods == pytest.approx([*CONDITIONED[[0, 2]], LOGPROBS[END]])
    assert answer.entropies == pytest.approx([CONDITIONED_ENTROPY] * 2 + [ENTROPY])
    # As many candidates as were asked for, without the end where it was forbidden.
    assert [[token for token, _ in row] for row in answer.candidates] == [[0, 2], [0, 2], [0, 1]]
    assert answer.candidates[0][0][1] == pytest.approx(CONDITIONED[0])


def test_an_end_that_is_all_but_certain_leaves_nothing_to_tell(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polygraph_generation, "LEAST_REST", 0.9)
    decoding = Decoding(max_new_tokens=3, min_new_tokens=1)
    ((answer,),) = generated(client, [[7]], decoding, end_ids=[END])
    assert math.isnan(answer.log_likelihoods[0])
    assert math.isnan(answer.entropies[0])
    assert answer.log_likelihoods[1] == pytest.approx(LOGPROBS[2])


def test_contexts_that_answers_share_are_asked_about_once(
    client: Client, server: SmallModelServer
) -> None:
    decoding = Decoding(max_new_tokens=3, min_new_tokens=2)
    found = generated(client, [[7], [8]], decoding, n=3, end_ids=[END])
    assert [len(row) for row in found] == [3, 3]
    (body,) = server.asked("items")
    assert [item["prompt"] for item in body["items"]] == [[7], [7, 0], [8], [8, 0]]


def test_decoding_is_what_the_server_is_asked_for(client: Client, server: SmallModelServer) -> None:
    decoding = Decoding(9, 0, temperature=0.5, top_k=3, top_p=0.9, stop=("\n",), seed=4)
    generated(client, [[7]], decoding, n=2)
    (body,) = server.bodies
    wanted = {"max_tokens": 9, "n": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 4}
    assert body.items() >= {**wanted, "model": "m", "repetition_penalty": 1.0}.items()
    assert body["stop"] == ["\n"]
    assert body["include_stop_str_in_output"]
    assert body["prompt"] == [[7]]


def test_entropies_of_a_part_of_the_vocabulary_are_refused(
    client: Client, server: SmallModelServer
) -> None:
    server.exact = False
    with pytest.raises(ValueError, match="not of the whole vocabulary"):
        generated(client, [[7]], Decoding(3))


def test_a_next_token_has_its_share_of_what_ends_leave(client: Client) -> None:
    plain = continuation_logprobs(client, [[7], [8]], [0, 2])
    assert plain == pytest.approx(LOGPROBS[[0, 2]])
    conditioned = continuation_logprobs(client, [[7], [8]], [0, 2], [END])
    assert conditioned == pytest.approx(CONDITIONED[[0, 2]])


def test_given_answers_have_a_number_for_each_token(client: Client) -> None:
    found = forced_log_likelihoods(client, [[7], [8]], [[0, 1], [2]])
    assert found == [pytest.approx(LOGPROBS[[0, 1]]), pytest.approx(LOGPROBS[[2]])]


def test_distributions_come_in_pieces_that_a_server_sends(
    client: Client, server: SmallModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polygraph_generation, "MAX_ENTRIES", 12)
    found = forced_distributions(client, [7], [0, 2, END], 5)
    np.testing.assert_allclose(found, [LOGPROBS] * 3, rtol=1e-6)
    pieces = [
        (item["prompt"], item["completion"]) for body in server.bodies for item in body["items"]
    ]
    assert sorted(pieces) == [([7], [0, 2]), ([7, 0, 2], [END])]
    without = without_tokens(found, [END])
    assert np.isneginf(without[:, END]).all()
    np.testing.assert_allclose(without[:, ALLOWED], [CONDITIONED[ALLOWED]] * 3, rtol=1e-5)
