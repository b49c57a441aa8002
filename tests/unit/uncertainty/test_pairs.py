"""Backends, and the least that has to be asked of any."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf_server.uncertainty.evidence import Generation, MissingEvidenceError
from conf_server.uncertainty.pairs import (
    alternative_pairs,
    assemble,
    assemble_alternatives,
    from_similarities,
    relevance_pairs,
    token_removals,
    unique_pairs,
)
from conf_server.uncertainty.words.overlap import jaccard, rouge_l

WORDS = st.lists(st.sampled_from(["a", "b", "running", "runs", "Ran", "c1"]), max_size=12)
TEXTS = st.lists(st.sampled_from("abcde"), max_size=8)


def slow_rouge_l(a: list[str], b: list[str]) -> float:
    table = np.zeros((len(a) + 1, len(b) + 1))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longer = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else longer
    return 2 * table[-1, -1] / (len(a) + len(b)) if a or b else 0.0


@given(WORDS, WORDS)
def test_rouge_l_is_the_longest_common_subsequence_of_stems(a: list[str], b: list[str]) -> None:
    stems = {"running": "run", "runs": "run", "Ran": "ran"}
    stemmed = [[stems.get(word, word) for word in words] for words in (a, b)]
    first, second = " ".join(a), "! ".join(b)
    (score,) = rouge_l([(first, second)])
    assert score == pytest.approx(slow_rouge_l(*stemmed), abs=1e-12)
    assert score == rouge_l([(second, first)])[0]


@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=5))
def test_rouge_l_of_many_pairs_is_that_of_each(texts: list[str]) -> None:
    pairs = [(a, b) for a in texts for b in texts]
    alone = [rouge_l([pair])[0] for pair in pairs]
    np.testing.assert_allclose(rouge_l(pairs), alone, atol=1e-12)


def test_rouge_l_of_more_words_than_stand_side_by_side() -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(map(str, draw.integers(0, 50, n))) for n in (5000, 0, 7000, 9000, 1)]
    pairs = list(combinations(texts, 2))
    alone = [rouge_l([pair])[0] for pair in pairs]
    assert min(alone) == 0 < max(alone)
    np.testing.assert_allclose(rouge_l(pairs), alone, atol=1e-12)


NUMBERED = [f"text {number}" for number in range(30)]
EACH_WITH_ALL = list(combinations(NUMBERED, 2))
EACH_WITH_NEXT = list(pairwise(NUMBERED))


@pytest.mark.parametrize("similarity", [jaccard, rouge_l])
@pytest.mark.parametrize(("pairs", "looks"), [(EACH_WITH_ALL, 40), (EACH_WITH_NEXT, 20)])
def test_a_comparison_ends_when_nobody_waits(
    similarity: Callable[..., object], pairs: list[tuple[str, str]], looks: int
) -> None:
    """Once the words of all texts are counted, or between two pairs."""
    patience = iter(range(looks))

    def leave() -> None:
        if next(patience, None) is None:
            raise CancelledError

    with pytest.raises(CancelledError):
        similarity(pairs, leave)


@pytest.mark.parametrize(
    ("a", "b", "score"),
    [
        ("Столица Франции — Париж.", "столица Франции: ПАРИЖ!", 1),
        ("1789年法国大革命爆发", "1789年没有", 2 * 2 / (9 + 4)),
        ("The café's open", "the café is open", 2 * 3 / (4 + 4)),
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),
        ("!!!", "???", 0),
    ],
)
def test_rouge_l_reads_any_script(a: str, b: str, score: float) -> None:
    assert rouge_l([(a, b)])[0] == pytest.approx(score)


@pytest.mark.parametrize(
    ("a", "b", "score"),
    [
        ("the cat", "The CAT", 1),
        ("the cat sat", "the dog sat", 2 / 4),
        ("a a a b", "b a", 1),
        ("cat.", "cat", 0),
        ("да", "Да", 1),
        ("", " ", 1),
        ("", "a", 0),
    ],
)
def test_jaccard(a: str, b: str, score: float) -> None:
    assert jaccard([(a, b), (b, a)]).tolist() == [score, score]


@given(TEXTS, st.booleans())
def test_each_pair_of_distinct_texts_is_judged_once(texts: list[str], symmetric: bool) -> None:
    asked = [(texts[i], texts[j]) for i, j in unique_pairs(texts, symmetric)]
    wanted = {(a, b) for a in texts for b in texts if a != b}
    assert len(asked) == len(set(asked)) == len(wanted) // (2 if symmetric else 1)
    assert wanted == set(asked) | ({(b, a) for a, b in asked} if symmetric else set())


@given(TEXTS)
def test_judgements_of_all_texts_from_those_of_the_pairs(texts: list[str]) -> None:
    def judge(a: str, b: str) -> tuple[float, float, float]:
        return (1, 0, 0) if a == b else (ord(a) / 300, ord(b) / 300, 1 - (ord(a) + ord(b)) / 300)

    pairs = unique_pairs(texts, False)
    found = assemble(texts, pairs, [judge(texts[i], texts[j]) for i, j in pairs], False)
    got = np.stack((found.entail, found.neutral, found.contradict), axis=-1)
    wanted = np.array([[judge(a, b) for b in texts] for a in texts]).reshape(got.shape)
    assert got == pytest.approx(wanted)


def test_a_similarity_holds_both_ways_and_leaves_no_neutral() -> None:
    texts = ["x", "y", "x", "z"]
    assert unique_pairs(texts, True) == [(0, 1), (0, 3), (1, 3)]
    verdicts = from_similarities([0.25, 0.5, 1.0])
    found = assemble(texts, unique_pairs(texts, True), verdicts, True)
    assert found.entail.tolist() == [
        [1, 0.25, 1, 0.5],
        [0.25, 1, 0.25, 1],
        [1, 0.25, 1, 0.5],
        [0.5, 1, 0.5, 1],
    ]
    assert (found.neutral == 0).all()
    assert (found.contradict == 1 - found.entail).all()


@pytest.mark.parametrize(
    ("pairs", "results", "message"),
    [
        ([(0, 1)], [[0.5, 0.5, 0]], "unique pairs"),
        ([(0, 1), (1, 0)], [[0.5, 0.5, 0]], "shape"),
        ([(0, 1), (1, 0)], [[0.5, 0.5, 0], [1.5, 0, -0.5]], "between 0 and 1"),
        ([(0, 1), (1, 0)], [[0.5, 0.5, 0], [np.nan, 0.5, 0.5]], "between 0 and 1"),
        ([(0, 1), (1, 0)], [[0.5, 0.5, 0.5]] * 2, "sum to 1"),
    ],
)
def test_results_that_are_no_judgements(pairs: list, results: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(["x", "y"], pairs, results, False)


def generation(text: str, tokens: tuple[str, ...] | None) -> Generation:
    return Generation(text, np.zeros(len(tokens or ())), tokens=tokens)


def test_the_text_without_each_token() -> None:
    text = generation("Yes, yes", ("Yes", ",", " yes", "<|end|>"))
    assert token_removals(text) == [", yes", "Yes yes", "Yes,", "Yes, yes"]


@given(st.lists(st.text(min_size=1, max_size=3), max_size=6).map(tuple))
def test_what_is_removed_is_the_token(tokens: tuple[str, ...]) -> None:
    removals = token_removals(generation("".join(tokens), tokens))
    assert removals == ["".join(tokens[:i] + tokens[i + 1 :]) for i in range(len(tokens))]


@pytest.mark.parametrize(
    ("text", "tokens", "removals"),
    [
        # A character of three bytes, each a token of its own.
        ("日本", ("", "", "日", "本"), ["本", "本", "本", "日"]),
        ("本日!", ("本", "", "日", "!"), ["日!", "本!", "本!", "本日"]),
        # A blank may share a token with the first bytes of a character.
        ("a é", ("a", "", " é"), [" é", "a", "a"]),
        # A character that was cut off is not in the text; nor is the end of the sequence.
        ("ok", ("ok", "", ""), ["", "ok", "ok"]),
        ("é", ("", "é", "", "<|end|>"), ["", "", "é", "é"]),
        # No character is split where nothing beyond ASCII follows.
        ("ab", ("", "a", "b"), ["ab", "b", "a"]),
        ("", ("", ""), ["", ""]),
    ],
)
def test_every_token_of_a_split_character_takes_it_away(
    text: str, tokens: tuple[str, ...], removals: list[str]
) -> None:
    assert token_removals(generation(text, tokens)) == removals


def test_tokens_are_compared_with_the_question_in_front_or_alone() -> None:
    text = generation("It is", ("It", " is", "<|end|>"))
    assert relevance_pairs(text) == [("It is", " is"), ("It is", "It"), ("It is", "It is")]
    assert relevance_pairs(text, "Is it?") == [
        ("Is it? It is", "Is it?  is"),
        ("Is it? It is", "Is it? It"),
        ("Is it? It is", "Is it? It is"),
    ]


def test_removals_want_the_tokens_of_the_text() -> None:
    with pytest.raises(MissingEvidenceError, match="tokens"):
        token_removals(generation("Yes", None))
    with pytest.raises(ValueError, match="add up"):
        token_removals(generation("Yes", ("No",)))


def test_alternatives_are_judged_as_words_against_the_answers_own() -> None:
    tokens = [" Paris", "Paris,", " Lyon", " Nice", " Lyon\n"]
    pairs = alternative_pairs(tokens)
    assert pairs == [("Paris", "Lyon"), ("Lyon", "Paris"), ("Paris", "Nice"), ("Nice", "Paris")]
    verdicts = np.eye(3)[[2, 1, 0, 2]]
    found = assemble_alternatives(tokens, -np.arange(5), pairs, verdicts)
    assert found.logprobs.tolist() == [0, -1, -2, -3, -4]
    assert found.forward.argmax(axis=1).tolist() == [0, 0, 2, 0, 2]
    assert found.backward.argmax(axis=1).tolist() == [0, 0, 1, 2, 1]
    with pytest.raises(ValueError, match="pairs"):
        assemble_alternatives(tokens, -np.arange(5), pairs[:2], verdicts[:2])


def test_part_of_a_character_is_no_blank_and_means_nothing() -> None:
    tokens = [" ", "\n", "", "\ufffd", " no"]
    pairs = alternative_pairs(tokens)
    assert pairs == [("", "no"), ("no", "")]
    found = assemble_alternatives(tokens, -np.arange(5), pairs, np.eye(3)[[2, 2]])
    # The blank line means what the blank does, which the parts of characters do not.
    assert found.forward.argmax(axis=1).tolist() == [0, 0, 1, 1, 2]
    assert found.backward.argmax(axis=1).tolist() == [0, 0, 1, 1, 2]
    assert found.readable


def test_nothing_is_judged_where_the_answers_own_token_is_part_of_a_character() -> None:
    tokens = ["", "", " Paris"]
    assert alternative_pairs(tokens) == []
    found = assemble_alternatives(tokens, -np.arange(3), [], [])
    assert found.forward[1:].argmax(axis=1).tolist() == [1, 1]
    assert not found.readable
