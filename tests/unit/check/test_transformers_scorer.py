"""TransformersScorer against transformers' own loss, on a model of a few thousand weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conf_server.check.transformers_scorer import (
    TransformersScorer,
    load_tokenizer,
    require_model,
)
from conf_server.settings import SettingsError

IDS = [3, 14, 15, 9, 2, 6]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> TransformersScorer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=20, num_attention_heads=2, num_key_value_heads=2, **sizes)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return TransformersScorer(str(folder), device="cpu")


def test_the_mean_is_transformers_own_loss(scorer: TransformersScorer) -> None:
    ids = torch.tensor([IDS])
    loss = scorer.model(ids, labels=ids).loss.item()
    assert scorer.token_logprobs(IDS).mean() == pytest.approx(-loss, rel=1e-6)


def test_weights_of_any_dtype_are_computed_with_in_float32(scorer: TransformersScorer) -> None:
    assert {weight.dtype for weight in scorer.model.parameters()} == {torch.float32}
    assert scorer.logits(IDS).dtype == torch.float32


def test_rows_are_distributions_of_the_tokens_after_the_first(scorer: TransformersScorer) -> None:
    rows = scorer.log_softmax(IDS)
    assert rows.shape == (5, 20)
    np.testing.assert_allclose(np.exp(rows).sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(scorer.token_logprobs(IDS), rows[range(5), IDS[1:]])


def test_what_follows_a_context_alone(scorer: TransformersScorer) -> None:
    np.testing.assert_array_equal(scorer.log_softmax(IDS, first=4), scorer.log_softmax(IDS)[3:])
    np.testing.assert_array_equal(
        scorer.token_logprobs(IDS, first=4), scorer.token_logprobs(IDS)[3:]
    )


def test_a_folder_without_a_model_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="transformers finds no model in"):
        require_model(str(tmp_path), {})
    with pytest.raises(SettingsError, match="no tokenizer in"):
        load_tokenizer(str(tmp_path), {})
