"""The kinds of evidence that methods need, each declared once.

A kind of evidence is one entry here: which field of `Evidence` it fills, what a model has to be
asked for it, and what that costs. Plans, obstacles, the catalogue and the documentation read it
from here. How it is gathered stands in `conf_server.gathering.gather`, by the same name.
"""

from __future__ import annotations

from enum import Flag, StrEnum, auto
from typing import Final, Self


class Asks(Flag):
    """What has to be asked for a kind of evidence, beside the answer itself."""

    NOTHING = 0
    STATISTICS = auto()
    """The engine computes exact token statistics of the answer."""
    CANDIDATES = auto()
    """The likeliest candidates at each of the answer's tokens."""
    SAMPLES = auto()
    """Further answers to the client's prompt, drawn or given."""
    REPEATS = auto()
    """As many answers to a prompt of ours as there are samples."""
    FORCING = auto()
    """Teacher forcing."""
    QUOTES = auto()
    """A prompt of ours quotes the question, which therefore has to be text."""
    JUDGE = auto()
    """Somebody has to compare texts."""
    STATES = auto()
    """Hidden states of the model's layers."""
    ATTENTION = auto()
    """Attention weights of the model's layers."""
    FITTED = auto()
    """What a fit has learned (`--fitted`)."""
    HEAD = auto()
    """A trained head (`--uhead`), and what it reads."""


READING: Final = Asks.STATES | Asks.ATTENTION | Asks.HEAD
"""For these the model reads prompt and answer once more, token by token."""


class Need(StrEnum):
    """A kind of evidence.

    Attributes:
        field: of `Evidence`, which it fills.
        asks: what it takes.
        cost: the same for people, with n samples.
    """

    field: str
    asks: Asks
    cost: str

    def __new__(cls, value: str, field: str, asks: Asks, cost: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.field = field
        member.asks = asks
        member.cost = cost
        return member

    ANSWER_LOGPROBS = ("answer_logprobs", "answer", Asks.NOTHING, "nothing beside the answer")
    ANSWER_STATISTICS = (
        *("answer_statistics", "answer", Asks.STATISTICS),
        "nothing beside the answer, where the engine computes exact statistics",
    )
    UNCONDITIONAL = (
        *("unconditional", "unconditional_logprobs", Asks.FORCING),
        "one prefill of the answer without its prompt",
    )
    SAMPLES = ("samples", "samples", Asks.SAMPLES, "n further answers")
    SAMPLE_LOGPROBS = (
        *("sample_logprobs", "samples", Asks.SAMPLES),
        "n further answers; one prefill each where they are given",
    )
    JUDGEMENTS = (
        *("judgements", "judgements", Asks.SAMPLES | Asks.JUDGE),
        "n further answers, n (n + 1) comparisons",
    )
    TOKEN_SIMILARITY = (
        *("token_similarity", "answer_token_similarity", Asks.JUDGE),
        "one comparison for each of the answer's tokens",
    )
    SAMPLE_TOKEN_SIMILARITY = (
        *("sample_token_similarity", "sample_token_similarity", Asks.SAMPLES | Asks.JUDGE),
        "n further answers, one comparison for each of their tokens",
    )
    P_TRUE = (
        *("p_true", "p_true_logprobs", Asks.FORCING | Asks.QUOTES),
        "one prefill that quotes question and answer",
    )
    P_TRUE_SAMPLING = (
        *("p_true_sampling", "p_true_sampling_logprobs"),
        Asks.SAMPLES | Asks.FORCING | Asks.QUOTES,
        "n further answers, one prefill that quotes them all",
    )
    P_TRUE_SAMPLES = (
        *("p_true_samples", "p_true_samples", Asks.REPEATS | Asks.QUOTES),
        "n short answers to one prompt",
    )
    VERBALIZED_1S = (
        *("verbalized_1s", "verbalized_1s", Asks.QUOTES),
        "one short answer to a prompt that quotes the question",
    )
    VERBALIZED_2S = ("verbalized_2s", "verbalized_2s", Asks.NOTHING, "one short further turn")
    LINGUISTIC_1S = (
        *("linguistic_1s", "linguistic_1s", Asks.QUOTES),
        "one short answer to a prompt that quotes the question",
    )
    EXTRACTED_ANSWERS = (
        *("extracted_answers", "extracted_answers", Asks.SAMPLES),
        "n further answers",
    )
    CLAIMS = (
        *("claims", "claims", Asks.CANDIDATES | Asks.JUDGE),
        "a few comparisons of single words for each of the answer's tokens",
    )
    SAMPLE_STATES = (
        *("sample_states", "sample_states", Asks.SAMPLES | Asks.STATES),
        "n further answers, one short prefill each",
    )
    SELF_ATTENTION = (
        *("self_attention", "self_attention", Asks.ATTENTION),
        "one prefill of prompt and answer, nothing of it from the prefix cache",
    )
    ANSWER_ATTENTION = (
        *("answer_attention", "answer_attention", Asks.ATTENTION),
        "one prefill of the answer, its prompt from the prefix cache",
    )
    JUDGING_ATTENTION = (
        *("judging_attention", "judging_attention", Asks.ATTENTION | Asks.QUOTES),
        "one prefill that quotes question and answer",
    )
    TEXT_STATES = (
        *("text_states", "text_states", Asks.STATES | Asks.FITTED),
        "one prefill of prompt and answer; nothing of it may come from the prefix cache",
    )
    ANSWER_STATES = (
        *("answer_states", "answer_states", Asks.STATES | Asks.FITTED),
        "one prefill of the answer; the prompt comes from the prefix cache",
    )
    LOOKBACK_RATIOS = (
        *("lookback_ratios", "lookback_ratios", Asks.ATTENTION | Asks.FITTED),
        "one prefill of the answer; the prompt comes from the prefix cache",
    )
    LAST_STATES = (
        *("last_states", "last_states", Asks.STATES | Asks.FITTED),
        "one prefill of a token or a few; the rest comes from the prefix cache",
    )
    UHEAD = (
        *("uhead", "head_verdict", Asks.HEAD),
        "one prefill of prompt and answer; of the answer alone where the head reads no more",
    )
