"""Forced texts through transformers: rows, hidden states and attention weights, held against plain
calls of the same model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import BloomConfig, BloomForCausalLM, Gemma2Config, Gemma2ForCausalLM

from conf_server.backends.base import (
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
    Plain,
)
from conf_server.backends.transformers import TransformersBackend
from conf_server.backends.transformers_forward import ForcedWork, ForwardPasses
from conf_server.refusal import RefusalError
from conf_server.stats.forced import ForcedText, WantedAttention, WantedRows, WantedStates
from tests.reference import Reference, token_statistics

CALLER = Caller("request")
COMPLETIONS = (" Paris.", " Rome, or so say those who have never been to Paris or to 東京.", " A")


async def prepared(
    backend: TransformersBackend, context: str = "The capital of France is"
) -> list[ForcingJob]:
    completions = tuple(map(Completion, COMPLETIONS))
    item = ForcingItem(Plain(context), completions, "items.0.", tuple("abc"))
    return await backend.prepare([item])


async def test_rows_are_those_of_the_whole_softmax(
    backend: TransformersBackend, reference: Reference
) -> None:
    jobs = await prepared(backend)
    wanted = WantedRows(20, 4, statistics=True, ranks=True)
    for job, forced in zip(jobs, await backend.force(jobs, wanted, CALLER), strict=True):
        ids, first = job.text.token_ids, job.text.first_scored
        expected = reference.log_softmax(ids, first)
        own = expected[np.arange(len(expected)), ids[first:]]
        rows = forced.rows
        assert forced.num_cached == 0
        assert rows.token_ids.tolist() == ids[first:]
        assert_allclose(rows.logprobs, own, atol=1e-4)
        best = -np.sort(-expected, axis=1)[:, :4]
        assert_allclose(rows.candidate_logprobs, best, atol=1e-4)
        named = np.take_along_axis(expected, rows.candidate_ids.astype(np.int64), axis=1)
        assert_allclose(named, best, atol=1e-4)
        assert rows.ranks.tolist() == ((expected > own[:, None]).sum(1) + 1).tolist()
        assert_allclose(rows.statistics, token_statistics(expected, 20), atol=2e-4)


async def test_rows_name_the_tokens_that_are_asked_for(
    backend: TransformersBackend, reference: Reference
) -> None:
    job, *_ = await prepared(backend)
    wanted = WantedRows(1, 3, statistics=True, token_ids=(17, 4, 17))
    (forced,) = await backend.force([job], wanted, CALLER)
    expected = reference.log_softmax(job.text.token_ids, job.text.first_scored)
    assert forced.rows.candidate_ids.tolist() == [[17, 4, 17]] * job.num_scored
    assert_allclose(forced.rows.candidate_logprobs, expected[:, [17, 4, 17]], atol=1e-4)
    assert not forced.rows.ranks.any()


async def test_rows_without_statistics_have_the_stock_engines_columns(
    backend: TransformersBackend,
) -> None:
    (forced, *_) = await backend.force(
        await prepared(backend), WantedRows(7, 2, statistics=False), CALLER
    )
    assert forced.rows.statistics is None
    assert forced.rows.named_ids.shape[1] == 1 + 7
    assert (forced.rows.ranks > 0).all()


async def test_a_text_without_context_has_no_row_for_its_first_token(
    backend: TransformersBackend,
) -> None:
    jobs = [ForcingJob(ForcedText(ids, 0), 0, "") for ids in ([5, 6, 7], [7])]
    wanted = WantedRows(1, 0, statistics=True)
    whole, single = await backend.force(jobs, wanted, CALLER)
    assert whole.rows.token_ids.tolist() == [6, 7]
    assert len(single.rows) == 0


@pytest.mark.parametrize("completion_only", [False, True])
@pytest.mark.parametrize("pooling", ["none", "mean", "last"])
async def test_states_of_all_kinds_of_layers(
    backend: TransformersBackend, reference: Reference, pooling: Any, completion_only: bool
) -> None:
    layers = (30, 0, 15)
    jobs = await prepared(backend)
    wanted = WantedStates(layers, pooling, completion_only)
    for job, forced in zip(jobs, await backend.states(jobs, wanted, CALLER), strict=True):
        first = job.text.num_context if completion_only else 0
        expected = reference.hidden_states(job.text.token_ids, layers, first)
        if pooling == "mean":
            expected = expected.mean(1, keepdims=True, dtype=np.float64)
        elif pooling == "last":
            expected = expected[:, -1:]
        assert forced.states.dtype == np.float32
        assert_allclose(forced.states, expected, atol=1e-4 * np.abs(expected).max())


async def test_attention_weights(backend: TransformersBackend, reference: Reference) -> None:
    jobs = await prepared(backend)
    wanted = WantedAttention((29, 3), history=3, context_mass=True, last_on=(1, None))
    found = await backend.states(jobs, WantedStates((1,), "last", True, wanted), CALLER)
    for job, forced in zip(jobs, found, strict=True):
        assert forced.attention is not None
        whole = reference.attention(job.text.token_ids, wanted.layers)
        first, count = job.text.num_context, len(job.text.token_ids)
        for p in range(first, count):
            expected = whole[:, :, p, [p, p - 1, p - 2]]
            assert_allclose(forced.attention.weights[:, p - first], expected, atol=1e-4)
        assert_allclose(
            forced.attention.context_mass,
            whole[:, :, first:, :first].sum(-1).transpose(0, 2, 1),
            atol=1e-4,
        )
        assert_allclose(forced.attention.last, whole[:, :, -1, 1:], atol=1e-4)


async def test_weights_before_the_texts_beginning_are_0(backend: TransformersBackend) -> None:
    wanted = WantedStates(attention=WantedAttention((0,), history=4))
    job = ForcingJob(ForcedText([5, 6, 7], 0), 0, "")
    (forced,) = await backend.states([job], wanted, CALLER)
    assert forced.states.size == 0
    assert forced.attention is not None
    weights = forced.attention.weights[0]
    assert weights.shape == (3, 9, 4)
    # What a token pays to all before it sums to one.
    assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not weights[0, :, 1:].any()
    assert not weights[1, :, 2:].any()


async def test_last_on_alone_is_of_the_last_token_alone(backend: TransformersBackend) -> None:
    wanted = WantedStates(attention=WantedAttention((0, 1), history=0, last_on=(0, 2)))
    job = ForcingJob(ForcedText([5, 6, 7, 8], 0), 0, "")
    (forced,) = await backend.states([job], wanted, CALLER)
    assert forced.attention is not None
    assert forced.attention.weights.shape == (2, 1, 9, 0)
    assert forced.attention.context_mass is None
    assert forced.attention.last is not None
    assert forced.attention.last.shape == (2, 9, 2)


async def test_attention_leaves_the_model_as_it_was(backend: TransformersBackend) -> None:
    job, *_ = await prepared(backend)
    rows = WantedRows(20, 3, statistics=True)
    (before,) = await backend.force([job], rows, CALLER)
    wanted = WantedStates(attention=WantedAttention((0,)))
    await backend.states([job], wanted, CALLER)
    (after,) = await backend.force([job], rows, CALLER)
    assert np.array_equal(before.rows.named_logprobs, after.rows.named_logprobs)


async def test_a_texts_numbers_do_not_depend_on_its_company(backend: TransformersBackend) -> None:
    jobs = await prepared(backend)
    rows, states = WantedRows(20, 3, statistics=True), WantedStates((7, 30), "none")
    together = await backend.force(jobs, rows, CALLER)
    states_together = await backend.states(jobs, states, CALLER)
    for number, job in enumerate(jobs):
        (alone,) = await backend.force([job], rows, CALLER)
        here = together[number].rows
        assert_allclose(alone.rows.named_logprobs, here.named_logprobs, atol=1e-4)
        assert_allclose(alone.rows.statistics, here.statistics, atol=1e-4)
        (alone_states,) = await backend.states([job], states, CALLER)
        company = states_together[number].states
        assert_allclose(alone_states.states, company, atol=1e-4 * np.abs(company).max())


async def test_labels_are_the_log_probabilities_of_their_first_tokens(
    backend: TransformersBackend, reference: Reference
) -> None:
    messages = ({"role": "user", "content": "Is Paris in France?"},)
    question = LabelQuestion(Chat(messages), ("Yes", "No"))
    plain = LabelQuestion(Plain("Paris is in France: true or false? It is"), (" true", " false"))
    chat_found, plain_found = await backend.labels([lambda: question, lambda: plain], CALLER)
    context = reference.tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, return_dict=False
    )
    ids = [reference.tokenizer.encode(label)[0] for label in question.labels]
    expected = reference.log_softmax([*context, ids[0]], len(context))[0, ids]
    assert_allclose(chat_found.logprobs, expected, atol=1e-4)
    assert chat_found.num_tokens == len(context) + 1
    assert plain_found.logprobs.shape == (2,)


async def test_a_text_of_which_no_token_counts_is_refused(backend: TransformersBackend) -> None:
    jobs = await backend.prepare([ForcingItem(Plain("Hello"), (), "items.3.", ())])
    with pytest.raises(RefusalError, match=r"items\.3\.prompt"):
        await backend.states(jobs, WantedStates((1,), completion_only=True), CALLER)


# Other architectures, small and random.


def bloom() -> Any:
    """ALiBi, and an attention that transformers does not switch."""
    config = BloomConfig(vocab_size=97, hidden_size=32, n_layer=3, n_head=4)
    torch.manual_seed(0)
    return BloomForCausalLM(config).eval()


def gemma2() -> Any:
    """Capped logits of attention and of tokens, embeddings that are scaled, and windows."""
    config = Gemma2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=0.1,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("make", [bloom, gemma2])
def test_other_architectures(make: Any) -> None:
    model = make()
    passes = ForwardPasses(model)
    count = model.config.num_hidden_layers
    assert passes.layers.states is None
    assert passes.layers.attention == (None,) * count
    assert passes.layers.num_heads == 4
    ids = [5, 96, 3, 3, 8, 41, 2, 7, 7, 60]
    company = ForcedWork(ForcedText(ids * 2, 1), WantedRows(1, 0, statistics=True))
    layers = tuple(range(count + 1))
    attention = WantedAttention(layers[:-1], history=len(ids))
    states, rows, _ = passes.forced(
        [
            ForcedWork(ForcedText(ids, 0), WantedStates(layers, "none", attention=attention)),
            ForcedWork(ForcedText(ids, 2), WantedRows(5, 97, statistics=True)),
            company,
        ]
    )
    model.set_attn_implementation("eager")
    with torch.no_grad():
        plain = model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
    expected = torch.stack(plain.hidden_states)[:, 0].numpy()
    assert_allclose(states.states, expected, atol=1e-4 * np.abs(expected).max())
    weights = torch.stack(plain.attentions)[:, 0].numpy()  # (layers, heads, n, n)
    for p in range(len(ids)):
        back = weights[:, :, p, p::-1] if p else weights[:, :, :1, 0]
        assert_allclose(states.attention.weights[:, p, :, : p + 1], back, atol=1e-4)
    logprobs = plain.logits[0].double().log_softmax(-1).numpy()[1:-1]
    named = np.take_along_axis(logprobs, rows.rows.candidate_ids.astype(np.int64), axis=1)
    assert_allclose(rows.rows.candidate_logprobs, named, atol=1e-4)


def test_layers_without_weights_say_so() -> None:
    """A model that mixes by convolution in some of its layers."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv"],
    )
    passes = ForwardPasses(Lfm2ForCausalLM(config).eval())
    first, second, third = passes.layers.attention
    assert second is None
    assert first is not None
    assert "no softmax attention" in first
    assert third == first
