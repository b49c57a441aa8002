"""The list of methods: what each needs is what it reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conf_server.uncertainty.evidence import Evidence, Generation, MissingEvidenceError
from conf_server.uncertainty.needs import Need
from conf_server.uncertainty.registry import FAST, METHODS, Method, resolve
from tests.unit.uncertainty.vectors.cases import cases

WHOLE = next(case.evidence for case in cases() if case.name == "paraphrases, judge")
FIELDS = {
    Need.UNCONDITIONAL: "unconditional_logprobs",
    Need.JUDGEMENTS: "judgements",
    Need.TOKEN_SIMILARITY: "answer_token_similarity",
    Need.SAMPLE_TOKEN_SIMILARITY: "sample_token_similarity",
    Need.P_TRUE: "p_true_logprobs",
    Need.P_TRUE_SAMPLING: "p_true_sampling_logprobs",
    Need.P_TRUE_SAMPLES: "p_true_samples",
    Need.VERBALIZED_1S: "verbalized_1s",
    Need.VERBALIZED_2S: "verbalized_2s",
    Need.LINGUISTIC_1S: "linguistic_1s",
    Need.EXTRACTED_ANSWERS: "extracted_answers",
    Need.CLAIMS: "claims",
}


def without(need: Need) -> Evidence:
    """Everything but one thing."""
    assert WHOLE.answer is not None
    nothing = np.empty(0)
    if need == Need.ANSWER_LOGPROBS:
        return replace(WHOLE, answer=Generation(WHOLE.answer.text, nothing))
    if need == Need.ANSWER_STATISTICS:
        return replace(WHOLE, answer=replace(WHOLE.answer, statistics=None), vocab_size=None)
    if need == Need.SAMPLES:
        return replace(WHOLE, samples=())
    if need == Need.SAMPLE_LOGPROBS:
        texts = tuple(Generation(sample.text, nothing) for sample in WHOLE.samples)
        return replace(WHOLE, samples=texts)
    return replace(WHOLE, **{FIELDS[need]: None})


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_method_needs_what_it_says_and_nothing_else(method: Method) -> None:
    assert method.needs
    # Without the samples their log-probabilities are not there either.
    implied = {Need.SAMPLES} if Need.SAMPLE_LOGPROBS in method.needs else set()
    if Need.ANSWER_STATISTICS in method.needs:
        implied.add(Need.ANSWER_LOGPROBS)  # one row a token has both
    for need in Need:
        if need in method.needs | implied:
            with pytest.raises(MissingEvidenceError):
                method.estimate(without(need))
        else:
            assert method.estimate(without(need)) == method.estimate(WHOLE)


def test_every_method_says_what_it_is() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.source
        assert method.description
        assert "\n" not in method.description


def test_the_fast_ones_need_the_answer_alone() -> None:
    own = {Need.ANSWER_LOGPROBS, Need.ANSWER_STATISTICS}
    assert set(FAST) == {name for name, method in METHODS.items() if method.needs <= own}
    assert {"perplexity", "mean_token_entropy", "fisher_rao"} <= set(FAST)


def test_groups_are_expanded_and_nothing_comes_twice() -> None:
    assert [method.name for method in resolve(["all"])] == list(METHODS)
    names = [method.name for method in resolve(["p_true", "perplexity", "fast", "p_true"])]
    assert names == ["p_true", "perplexity", *(name for name in FAST if name != "perplexity")]
    assert resolve([]) == ()


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(KeyError, match="magic"):
        resolve(["fast", "magic", "p_true"])


def test_families_stand_for_their_members() -> None:
    assert [method.name for method in resolve(["cocoa"])] == ["cocoa_msp", "cocoa_ppl", "cocoa_mte"]
    assert len(resolve(["lexical_similarity", "lexical_similarity_bleu"])) == 4
