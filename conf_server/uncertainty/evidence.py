"""What is known of an answer, which is all that an estimator may read.

Which methods can be had depends on what the caller has filled in: nothing here asks a model.
Log-probabilities are natural, and those of the model before temperature, penalties and masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.uncertainty.fitted import FITTABLE, Fitted, FittedMethod
from conf_server.uncertainty.words.ngrams import rouge_words

Floats = NDArray[np.float64]
Value = TypeVar("Value")

_ROUNDING: Final = 1e-3
"""How far three probabilities of a judge in half precision may sum from 1."""


class MissingEvidenceError(ValueError):
    """A method was asked for without something it needs."""


@dataclass(frozen=True, eq=False)
class Generation:
    """One text that the model wrote.

    lm-polygraph counts the end-of-sequence token in an answer, and in a sample's sum but not in
    its length. Here `logprobs` are those of all the tokens there are, so that a caller has to keep
    or leave out the end of the sequence everywhere alike.

    Attributes:
        text: what a reader sees.
        logprobs: (n,) float64 nats, of the text's tokens.
        statistics: (n, s) with the columns of `conf_server.stats.columns.TokenStatistic`.
        tokens: the n tokens' texts; joined they start with `text`. The text of a character that
            is split over several tokens is that of the last one, and the others are empty.

    Raises:
        ValueError: the lengths differ.
    """

    text: str
    logprobs: Floats
    statistics: Floats | None = None
    tokens: tuple[str, ...] | None = None

    @cached_property
    def words(self) -> list[str]:
        """The text's words as ROUGE counts them (`ngrams.rouge_words`)."""
        return rouge_words(self.text)

    def __post_init__(self) -> None:
        if self.logprobs.ndim != 1:
            raise ValueError(f"logprobs must have one dimension, got {self.logprobs.ndim}")
        n = len(self.logprobs)
        if self.statistics is not None and self.statistics.shape != (n, NUM_TOKEN_STATISTICS):
            raise ValueError(f"statistics of shape {self.statistics.shape} for {n} tokens")
        if self.tokens is not None and len(self.tokens) != n:
            raise ValueError(f"{len(self.tokens)} token texts for {n} tokens")


@dataclass(frozen=True, eq=False)
class Judgements:
    """What a judge said of ordered pairs of the texts [answer, *samples].

    Index 0 is the answer, index i+1 is sample i. A judge that knows only a similarity s in
    [0, 1] says entail = s, neutral = 0 and contradict = 1 - s.

    Attributes:
        entail: (1+m, 1+m) float64, row = premise, column = hypothesis.
        neutral: likewise.
        contradict: likewise; the three sum to 1.

    Raises:
        ValueError: the shapes differ, are not square, or three entries do not sum to 1.
    """

    entail: Floats
    neutral: Floats
    contradict: Floats

    def __post_init__(self) -> None:
        shapes = {self.entail.shape, self.neutral.shape, self.contradict.shape}
        if shapes != {(len(self.entail), len(self.entail))}:
            raise ValueError(f"judgements must be square and alike, got shapes {sorted(shapes)}")
        if not np.allclose(self.entail + self.neutral + self.contradict, 1, 0, _ROUNDING):
            raise ValueError("entail, neutral and contradict must sum to 1")


@dataclass(frozen=True, eq=False)
class Alternatives:
    """The likeliest tokens at one position of the answer, and what a judge said of them.

    Attributes:
        logprobs: (k,) nats; first the answer's own token.
        forward: (k, 3) probabilities of entail, neutral, contradict: own token the premise,
            alternative the hypothesis. Row 0 is not read.
        backward: (k, 3), alternative the premise.
        readable: whether the answer's own token is a text, which a judge can compare. One that
            is part of a character is none.

    Raises:
        ValueError: the lengths differ, or there is no token.
    """

    logprobs: Floats
    forward: Floats
    backward: Floats
    readable: bool = True

    def __post_init__(self) -> None:
        k = len(self.logprobs)
        if not k or self.forward.shape != (k, 3) or self.backward.shape != (k, 3):
            raise ValueError(
                f"{k} alternatives with judgements of shapes {self.forward.shape} and "
                f"{self.backward.shape}"
            )


@dataclass(frozen=True, eq=False)
class AnswerAttention:
    """What the answer's tokens but the last pay to themselves, in `layers.middle_third`.

    Attributes:
        own: (layers, n-1, heads) weights, n the number of the answer's tokens.
        middle: which of these layers is `layers.middle`.
    """

    own: Floats
    middle: int


@dataclass(frozen=True, eq=False)
class HeadVerdict:
    """What a trained head says of the answer.

    Attributes:
        logits: of being wrong, higher = more likely: (n,) of the answer's n tokens, or (1,) of
            the whole answer.
        of_tokens: which of the two.

    Raises:
        ValueError: logits of another shape, or none.
    """

    logits: Floats
    of_tokens: bool

    def __post_init__(self) -> None:
        count = len(self.logits) if self.of_tokens else 1
        if self.logits.shape != (count,) or not count:
            raise ValueError(f"logits of shape {self.logits.shape} for one answer")


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a caller knows of one answer. What it does not know is None or empty.

    Attributes:
        answer: the text whose uncertainty is asked for.
        samples: m other texts for the same prompt, in the order of all arrays below.
        vocab_size: the vocabulary's size V, which goes with the answer's statistics.
        unconditional_logprobs: (n,) nats, of the answer's tokens forced without the prompt. The
            first one is not read, as nothing need stand before it.
        judgements: of the texts [answer, *samples].
        answer_token_similarity: (n,) in [0, 1], of the answer and of the answer without each of
            its tokens (`pairs.relevance_pairs`).
        sample_token_similarity: the same for each of the samples, (n_i,) each.
        p_true_logprobs: nats, of the labels True and False after `prompts.p_true`.
        p_true_sampling_logprobs: nats, of the labels True and False after
            `prompts.p_true_sampling`.
        p_true_samples: sampled replies to `prompts.p_true`.
        verbalized_1s: the model's reply to `prompts.verbalized_1s`.
        verbalized_2s: the model's reply to `prompts.verbalized_2s`.
        linguistic_1s: the model's reply to `prompts.linguistic_1s`.
        extracted_answers: what `parsing.extract_answer` finds in each sample.
        claims: the judged alternatives at each of the answer's tokens.
        sample_states: (m, d), of each sample the middle layer's hidden state after its last token
            but one, with the prompt before it.
        self_attention: (tokens of prompt and answer, heads): what each pays to itself in the
            middle layer.
        answer_attention: what the answer's tokens pay to themselves in several layers.
        judging_attention: (n,), what the end of `prompts.eliciting` pays to the answer's tokens,
            mean over all layers and heads.
        head_verdict: what a trained head says of the answer.
        is_instruct: whether the model is tuned to follow instructions.
        rauq_alpha: in place of `rauq`'s own; None for that.
        text_states, answer_states, last_states: by layer, (d,) of the answer with the prompt
            before it, pooled as `Pooled` says.
        lookback_ratios: (layers x heads,) of the answer, layer by layer.
        fitted: what a fit has learned of such numbers of other texts.
    """

    answer: Generation | None = None
    samples: tuple[Generation, ...] = ()
    vocab_size: int | None = None
    unconditional_logprobs: Floats | None = None
    judgements: Judgements | None = None
    answer_token_similarity: Floats | None = None
    sample_token_similarity: tuple[Floats, ...] | None = None
    p_true_logprobs: tuple[float, float] | None = None
    p_true_sampling_logprobs: tuple[float, float] | None = None
    p_true_samples: tuple[str, ...] | None = None
    verbalized_1s: str | None = None
    verbalized_2s: str | None = None
    linguistic_1s: str | None = None
    extracted_answers: tuple[str | None, ...] | None = None
    claims: tuple[Alternatives, ...] | None = None
    sample_states: Floats | None = None
    self_attention: Floats | None = None
    answer_attention: AnswerAttention | None = None
    judging_attention: Floats | None = None
    head_verdict: HeadVerdict | None = None
    is_instruct: bool = False
    rauq_alpha: float | None = None
    text_states: Mapping[int, Floats] | None = None
    answer_states: Mapping[int, Floats] | None = None
    last_states: Mapping[int, Floats] | None = None
    lookback_ratios: Floats | None = None
    fitted: Fitted | None = None


def required(value: Value | None, what: str) -> Value:
    """`value`, which has to be there.

    Raises:
        MissingEvidenceError: it is None or empty.
    """
    if value is None or (isinstance(value, tuple) and not value):
        raise MissingEvidenceError(f"needs {what}")
    return value


def answer_logprobs(evidence: Evidence) -> Floats:
    """(n,) nats, n >= 1.

    Raises:
        MissingEvidenceError: there is no answer, or it has no tokens.
    """
    logprobs = required(evidence.answer, "an answer").logprobs
    if not logprobs.size:
        raise MissingEvidenceError("needs the log-probabilities of the answer's tokens")
    return logprobs


def answer_statistics(evidence: Evidence) -> Floats:
    """(n, 7), n >= 1.

    Raises:
        MissingEvidenceError: there is no answer, or it has no statistics.
    """
    answer_logprobs(evidence)
    return required(required(evidence.answer, "an answer").statistics, "exact token statistics")


def sample_logprobs(evidence: Evidence) -> tuple[Floats, ...]:
    """(n_i,) nats for each of m >= 1 samples, n_i >= 1.

    Raises:
        MissingEvidenceError: there is no sample, or one of them has no tokens.
    """
    samples = required(evidence.samples, "samples")
    for i, sample in enumerate(samples):
        if not sample.logprobs.size:
            raise MissingEvidenceError(f"needs the log-probabilities of sample {i}'s tokens")
    return tuple(sample.logprobs for sample in samples)


def all_judgements(evidence: Evidence) -> Judgements:
    """(1+m, 1+m), m >= 1.

    Raises:
        MissingEvidenceError: there are no samples or no judgements.
        ValueError: there are judgements of another number of texts.
    """
    texts = 1 + len(required(evidence.samples, "samples"))
    judgements = required(evidence.judgements, "judgements of the texts")
    if len(judgements.entail) != texts:
        raise ValueError(f"judgements of {len(judgements.entail)} texts, there are {texts}")
    return judgements


def sample_judgements(evidence: Evidence) -> Judgements:
    """(m, m), m >= 1, of the samples alone. It raises what `all_judgements` raises."""
    judgements = all_judgements(evidence)
    return Judgements(
        judgements.entail[1:, 1:], judgements.neutral[1:, 1:], judgements.contradict[1:, 1:]
    )


def fitted_state(evidence: Evidence, name: str) -> tuple[FittedMethod, Floats]:
    """What was fitted for a method, and the (d,) state that it reads.

    Raises:
        MissingEvidenceError: the method has not been fitted, or there is no state of its layer.
    """
    fitted = required(evidence.fitted, "a fit")
    method = required(fitted.methods.get(name), f"a fit of {name}")
    states = getattr(evidence, f"{FITTABLE[name].pooled}_states") or {}
    return method, required(states.get(method.layer), f"hidden states of layer {method.layer}")
