"""What the estimators promise whatever the numbers: order, extremes, refusals."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.uncertainty.evidence import Alternatives, Evidence, Generation, Judgements
from conf_server.uncertainty.pairs import assemble, relevance_pairs, unique_pairs
from conf_server.uncertainty.parsing import extract_answer
from conf_server.uncertainty.registry import METHODS
from conf_server.uncertainty.words.overlap import jaccard
from tests.unit.uncertainty.vectors.cases import cases

CASES = cases()
METHODS_FIELD = {"p_true": "p_true_logprobs", "p_true_sampling": "p_true_sampling_logprobs"}
TEXTS = ("Paris", "Paris it is", "in Paris, France", "Lyon", "Lyon of course", "I do not know")
JUDGED = ("num_sem_sets", "deg_mat", "eccentricity", "eig_val_laplacian", "kernel_language_entropy")
UNORDERED = (
    *JUDGED,
    *("luq", "sentence_sar", "sar", "semantic_density", "cocoa_msp", "cocoa_ppl", "cocoa_mte"),
    *("monte_carlo_sequence_entropy", "monte_carlo_normalized_sequence_entropy", "consistency"),
    *("lexical_similarity_rouge1", "lexical_similarity_rouge2", "lexical_similarity_rougeL"),
)


def value(name: str, evidence: Evidence) -> float | None:
    return METHODS[name].estimate(evidence).value


def judged(entail: NDArray, neutral: NDArray) -> Judgements:
    return Judgements(entail, neutral, 1 - entail - neutral)


@st.composite
def sampled(draw: st.DrawFn) -> Evidence:
    """An answer with 2 to 6 samples of few texts, and a judge of any opinion."""
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=3, max_size=7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pairs = unique_pairs(texts, False)
    generations = [
        Generation(text, -rng.exponential(1, n), rng.random((n, NUM_TOKEN_STATISTICS)))
        for text, n in zip(texts, rng.integers(1, 9, len(texts)), strict=True)
    ]
    return Evidence(
        answer=generations[0],
        samples=tuple(generations[1:]),
        judgements=assemble(texts, pairs, rng.dirichlet((1, 1, 1), len(pairs)), False),
        sample_token_similarity=tuple(rng.random(len(g.logprobs)) for g in generations[1:]),
        extracted_answers=tuple(extract_answer(text) for text in texts[1:]),
    )


def reordered(evidence: Evidence, order: list[int]) -> Evidence:
    assert evidence.judgements is not None
    assert evidence.sample_token_similarity is not None
    assert evidence.extracted_answers is not None
    rows = np.ix_([0, *(i + 1 for i in order)], [0, *(i + 1 for i in order)])
    judgements = evidence.judgements
    return replace(
        evidence,
        samples=tuple(evidence.samples[i] for i in order),
        judgements=Judgements(
            judgements.entail[rows], judgements.neutral[rows], judgements.contradict[rows]
        ),
        sample_token_similarity=tuple(evidence.sample_token_similarity[i] for i in order),
        extracted_answers=tuple(evidence.extracted_answers[i] for i in order),
    )


@given(sampled(), st.data())
@settings(max_examples=30)
def test_the_order_of_samples_says_nothing(evidence: Evidence, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(evidence.samples))))
    texts = [sample.text for sample in evidence.samples]
    other = reordered(evidence, order)
    for name in UNORDERED:
        # Of repeated samples semantic_density counts the first: lm-polygraph's rule.
        if name != "semantic_density" or len(set(texts)) == len(texts):
            assert value(name, other) == pytest.approx(value(name, evidence), abs=1e-9), name


@given(sampled())
@settings(max_examples=30)
def test_samples_that_all_say_the_same_are_the_least_uncertain(evidence: Evidence) -> None:
    m = len(evidence.samples)
    agreed = replace(
        evidence,
        samples=(evidence.samples[0],) * m,
        judgements=judged(np.ones((1 + m, 1 + m)), np.zeros((1 + m, 1 + m))),
        extracted_answers=("paris",) * m,
    )
    lexical = [f"lexical_similarity_{name}" for name in ("rouge1", "rougeL", "bleu")]
    for name in (*JUDGED, "luq", "cocoa_msp", "cocoa_ppl", "cocoa_mte", "consistency", *lexical):
        least, other = value(name, agreed), value(name, evidence)
        assert least is not None
        assert other is None or least <= other + 1e-9, name
    assert value("num_sem_sets", agreed) == 1
    assert value("eig_val_laplacian", agreed) == pytest.approx(1)
    for name in ("deg_mat", "eccentricity", "luq", "consistency", "cocoa_msp"):
        assert value(name, agreed) == pytest.approx(0, abs=1e-9), name


def test_classes_of_meaning() -> None:
    # Of six texts 0, 1, 3 mean the same and 2, 5; the answer is like none.
    meaning = np.array([9, 0, 0, 1, 0, 2, 1])
    same = (meaning[:, None] == meaning).astype(float)
    logprobs = np.log([0.1, 0.2, 0.3, 0.05, 0.15, 0.2])
    samples = tuple(Generation(str(i), lp[None]) for i, lp in enumerate(logprobs))
    evidence = Evidence(samples=samples, judgements=judged(same, np.zeros_like(same)))
    found = METHODS["semantic_entropy"].estimate(evidence)
    assert found.details == {"classes": [0, 0, 1, 0, 2, 1]}
    p = {0: 0.1 + 0.2 + 0.05, 1: 0.3 + 0.2, 2: 0.15}
    assert found.value == pytest.approx(-np.mean([math.log(p[c]) for c in [0, 0, 1, 0, 2, 1]]))
    sets = METHODS["num_sem_sets"].estimate(evidence)
    assert (sets.value, sets.details) == (3, found.details)


def test_sets_hang_together_by_links_where_classes_want_the_first_member() -> None:
    # A chain: each sample means what its neighbours mean.
    links = np.abs(np.subtract.outer(range(5), range(5))) <= 1
    samples = tuple(Generation(str(i), np.array([-1.0])) for i in range(4))
    evidence = Evidence(samples=samples, judgements=judged(links * 1.0, 0.0 * links))
    assert METHODS["num_sem_sets"].estimate(evidence).details == {"classes": [0, 0, 0, 0]}
    assert METHODS["semantic_entropy"].estimate(evidence).details == {"classes": [0, 0, 1, 1]}


def test_texts_too_long_for_probabilities_have_relevance_still() -> None:
    # exp(-2000) is 0 in floating point: in logarithms nothing is lost.
    n, apart = 2000, np.array([[1, 1, 1], [1, 1, 0.5], [1, 0.5, 1.0]])
    samples = (Generation("a", np.full(n, -1.0)), Generation("b", np.full(n, -1.0)))
    evidence = Evidence(
        samples=samples,
        judgements=judged(apart, np.zeros((3, 3))),
        sample_token_similarity=(np.zeros(n), np.zeros(n)),
    )
    assert value("sentence_sar", evidence) == pytest.approx(n - math.log(1 + 0.5 / 0.001))
    assert value("sar", evidence) == pytest.approx(1 - math.log(1 + 0.5 / 0.001))


@pytest.mark.parametrize(
    ("answers", "uncertainty", "details"),
    [
        (("7", "7", "8", "7"), 1 / 4, {"answer": "7", "votes": 3}),
        (("8", "7", "7", "8"), 1 / 2, {"answer": "8", "votes": 2}),
        (("7", None, None, None), 3 / 4, {"answer": "7", "votes": 1}),
        (("7",), 0, {"answer": "7", "votes": 1}),
        ((None, None), None, None),
    ],
)
def test_consistency(answers: tuple, uncertainty: float | None, details: dict | None) -> None:
    found = METHODS["consistency"].estimate(Evidence(extracted_answers=answers))
    assert (found.value, found.details) == (uncertainty, details)


@pytest.mark.parametrize("case", CASES[::5], ids=lambda case: case.name)
def test_what_lm_polygraph_lacks_by_its_definition(case: Any) -> None:
    statistics = case.evidence.answer.statistics
    assert value("max_token_entropy", case.evidence) == pytest.approx(max(statistics[:, 1]))
    gaps = [1 - (math.exp(row[5]) - math.exp(row[6])) for row in statistics]
    assert value("probability_gap", case.evidence) == pytest.approx(sum(gaps) / len(gaps))


def test_no_token_of_a_split_character_is_weightless() -> None:
    # As a byte-level vocabulary has it: three tokens a character, or one.
    tokens = ("", "", "日", "本", "", "", "の", "", "", "首", "<|end|>")
    logprobs = -np.arange(1.0, len(tokens) + 1)
    answer = Generation("日本の首", logprobs, tokens=tokens)
    pairs = relevance_pairs(answer, "日本")
    similarity = np.array([1.0 if a == b else jaccard([(a, b)])[0] for a, b in pairs])
    found = value("token_sar", Evidence(answer=answer, answer_token_similarity=similarity))
    # Every removal leaves another word, so all tokens but the end weigh the same.
    assert found == pytest.approx(-logprobs[:-1].mean())


def test_the_only_token_has_all_relevance() -> None:
    answer = Generation("Paris", np.array([-0.5]))
    evidence = Evidence(answer=answer, answer_token_similarity=np.array([1.0]))
    assert value("token_sar", evidence) == 0.5


def test_a_claim_in_parts_of_characters_is_not_exact() -> None:
    whole = Alternatives(np.log([0.6, 0.3]), np.eye(3)[[0, 2]], np.eye(3)[[0, 2]])
    part = replace(whole, forward=np.eye(3)[[0, 1]], backward=np.eye(3)[[0, 1]], readable=False)
    method = METHODS["claim_conditioned_probability"]
    judged = method.estimate(Evidence(claims=(whole,)))
    assert (judged.value, judged.exact) == (pytest.approx(-2 / 3), True)
    partly = method.estimate(Evidence(claims=(whole, part)))
    assert (partly.value, partly.exact) == (pytest.approx(-2 / 3), False)


def test_meanings_by_how_many_samples_have_them() -> None:
    meaning = np.array([9, 0, 0, 1, 0, 2, 1, 0])
    same = (meaning[:, None] == meaning).astype(float)
    samples = tuple(Generation(str(i), np.array([-40.0])) for i in range(7))
    evidence = Evidence(samples=samples, judgements=judged(same, np.zeros_like(same)))
    shares = [4 / 7, 2 / 7, 1 / 7]
    entropy = -sum(share * math.log(share) for share in shares)
    assert value("semantic_entropy_empirical", evidence) == pytest.approx(entropy)
    assert value("label_prob", evidence) == pytest.approx(3 / 7)
    # What is not normalised is far above the logarithm of the number of samples.
    unnormalised = value("semantic_entropy", evidence)
    assert unnormalised is not None
    assert unnormalised > 38 > math.log(7)


def test_repeated_samples_count_once_or_every_time() -> None:
    texts, logprobs = ("a", "a", "b"), np.log([0.5, 0.5, 0.25])
    same = np.ones((4, 4))
    samples = tuple(Generation(text, lp[None]) for text, lp in zip(texts, logprobs, strict=True))
    evidence = Evidence(samples=samples, judgements=judged(same, np.zeros_like(same)))
    assert value("semantic_entropy", evidence) == pytest.approx(-math.log(1.25))
    assert value("semantic_entropy_unique", evidence) == pytest.approx(-math.log(0.75))


def test_p_true_also_tells_the_share_of_true() -> None:
    found = METHODS["p_true"].estimate(Evidence(p_true_logprobs=(math.log(0.6), math.log(0.2))))
    assert found.value == pytest.approx(-math.log(0.6))
    assert found.details == {"p_true": pytest.approx(0.75)}


@pytest.mark.parametrize(
    ("logprobs", "share"),
    [
        ((-900.0, -900.0 - math.log(3)), 0.75),  # both exponentials are 0 in floats
        ((-math.inf, -1.0), 0),
        ((-1.0, -math.inf), 1),
        ((-math.inf, -math.inf), None),
        ((math.nan, -1.0), None),
    ],
)
def test_the_share_of_true_is_plain_json(
    logprobs: tuple[float, float], share: float | None
) -> None:
    for name in ("p_true", "p_true_sampling"):
        found = METHODS[name].estimate(Evidence(**{METHODS_FIELD[name]: logprobs}))
        assert found.details == {"p_true": share if share is None else pytest.approx(share)}


def test_the_first_token_needs_no_log_probability_without_the_prompt() -> None:
    evidence = CASES[0].evidence
    assert evidence.unconditional_logprobs is not None
    unknown = evidence.unconditional_logprobs.copy()
    unknown[0] = math.nan
    for name in METHODS:
        if name.endswith("mutual_information"):
            other = replace(evidence, unconditional_logprobs=unknown)
            assert value(name, other) == value(name, evidence) is not None


def test_what_is_infinite_or_undefined_has_no_value() -> None:
    certain = Evidence(p_true_logprobs=(-math.inf, -math.inf))
    assert value("p_true", certain) is None
    whole = Evidence(
        answer=Generation("ab", np.array([-1.0, -2.0])), answer_token_similarity=np.ones(2)
    )
    assert value("token_sar", whole) is None  # no token matters
    assert value("verbalized_1s", Evidence(verbalized_1s="I cannot say")) is None


def test_arrays_that_do_not_go_together_are_refused() -> None:
    evidence = CASES[0].evidence
    assert evidence.judgements is not None
    for name, change in {
        "deg_mat": {"samples": evidence.samples[1:]},
        "token_sar": {"answer_token_similarity": np.zeros(99)},
        "sar": {"sample_token_similarity": (np.zeros(1),)},
        "mean_pointwise_mutual_information": {"unconditional_logprobs": np.zeros(99)},
    }.items():
        with pytest.raises(ValueError, match=r"\d"):
            value(name, replace(evidence, **change))
    for wrong in (
        lambda: Generation("a", np.zeros((1, 1))),
        lambda: Generation("a", np.zeros(2), statistics=np.zeros((1, 7))),
        lambda: Generation("a", np.zeros(2), tokens=("a",)),
        lambda: Judgements(np.ones((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))),
        lambda: Judgements(np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2))),
        lambda: Alternatives(np.zeros(2), np.zeros((1, 3)), np.zeros((2, 3))),
    ):
        with pytest.raises(ValueError, match=r"\d|square"):
            wrong()


@pytest.mark.parametrize("name", ["lexical_similarity_bleu", "lexical_similarity_rougeL"])
def test_memory_grows_with_the_words_not_with_their_square(name: str) -> None:
    texts = (" ".join(f"{text}x{word}" for word in range(300)) for text in range(100))
    evidence = Evidence(samples=tuple(Generation(text, np.zeros(1)) for text in texts))
    tracemalloc.start()
    try:
        assert value(name, evidence) == pytest.approx(0)
        assert tracemalloc.get_traced_memory()[1] < 45e6
    finally:
        tracemalloc.stop()
