from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from conf_server.client import Client
from conf_server.integrations.polygraph_model import (
    ServedCausalLM,
    decoding_of,
    load_model,
    unpadded,
)
from tests.unit.integrations.small_model_server import END, SmallModelServer

TOKENIZER = SimpleNamespace(eos_token_id=END, pad_token_id=4)
CONFIG = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=5))
IDS, MASK = torch.tensor([[4, 7], [8, 9]]), torch.tensor([[0, 1], [1, 1]])


@pytest.fixture
def model(client: Client) -> ServedCausalLM:
    config = GenerationConfig(eos_token_id=[END, 3])
    return ServedCausalLM(client, CONFIG, config, TOKENIZER)


def test_answers_stand_behind_their_prompts(
    model: ServedCausalLM, server: SmallModelServer
) -> None:
    found = model.generate(
        IDS, MASK, max_new_tokens=3, do_sample=True, num_return_sequences=2, use_cache=True
    )
    answer = list(server.answer)
    assert found.sequences.tolist() == [[4, 7, *answer]] * 2 + [[8, 9, *answer]] * 2
    # The server is not asked to read what a prompt was padded with.
    assert server.bodies[-1]["prompt"] == [[7], [8, 9]]
    assert model.end_ids == (END, 3)


def test_padding_is_no_prompt() -> None:
    assert unpadded(IDS, MASK) == [[7], [8, 9]]


@pytest.mark.parametrize("wanted", ["output_scores", "output_attentions", "output_hidden_states"])
def test_what_a_served_model_has_not_is_refused(model: ServedCausalLM, wanted: str) -> None:
    with pytest.raises(NotImplementedError, match=wanted.removeprefix("output_")):
        model.generate(IDS, MASK, max_new_tokens=3, **{wanted: True})
    with pytest.raises(NotImplementedError, match="logits"):
        model(input_ids=IDS)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("num_beams", 2), ("repetition_penalty", 1.1), ("presence_penalty", 0.5)),
        *(("allow_newlines", False), ("suppress_tokens", [1])),
    ],
)
def test_what_would_change_the_distributions_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        decoding_of({"max_new_tokens": 3, option: value})


def test_draws_are_repeatable_by_torchs_seed() -> None:
    options = {"max_new_tokens": 3, "do_sample": True, "temperature": 0.5, "top_k": 50}
    torch.manual_seed(1)
    first, second = decoding_of(options), decoding_of(options)
    torch.manual_seed(1)
    assert decoding_of(options) == first
    assert first.seed != second.seed
    assert (first.temperature, first.top_k) == (0.5, 50)


def test_the_likeliest_tokens_are_taken_unless_a_draw_is_asked_for() -> None:
    found = decoding_of({"max_new_tokens": 3, "temperature": 0.5, "top_k": 50})
    assert (found.temperature, found.top_k, found.seed) == (0.0, 0, None)


def test_another_tokenizer_than_the_served_models_is_refused(
    server: SmallModelServer, model_path: Path
) -> None:
    with pytest.raises(ValueError, match="not the tokenizer of the served model /models/m"):
        load_model(str(model_path), server.url)
