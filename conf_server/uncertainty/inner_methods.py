"""The part of the catalogue that looks at what the model's layers make of an answer."""

from __future__ import annotations

from typing import Final

from conf_server.uncertainty.method import Method, complement
from conf_server.uncertainty.methods import attention
from conf_server.uncertainty.methods.hidden_states import eigenscore
from conf_server.uncertainty.methods.trained_head import uhead
from conf_server.uncertainty.needs import Need

OF_STATES: Final = (
    Method(
        "eigenscore",
        frozenset({Need.SAMPLES, Need.SAMPLE_STATES}),
        eigenscore,
        "arXiv 2402.03744",
        "mean log-eigenvalue of the covariance of the samples' hidden states, middle layer",
    ),
)
OF_ATTENTION: Final = (
    Method(
        "attention_score",
        frozenset({Need.SELF_ATTENTION}),
        attention.attention_score,
        "LLM-Check, openreview LYx4w3CAgy",
        "minus the log of what each token of prompt and answer pays to itself, summed, mean over "
        "the middle layer's heads; grows with their length",
    ),
    Method(
        "attention_score_gen_only",
        frozenset({Need.ANSWER_ATTENTION}),
        attention.attention_score_gen_only,
        "LLM-Check, openreview LYx4w3CAgy",
        "minus the log of what each of the answer's tokens pays to itself, summed, mean over the "
        "middle layer's heads; grows with the answer's length",
    ),
    Method(
        "rauq",
        frozenset({Need.ANSWER_LOGPROBS, Need.ANSWER_ATTENTION}),
        attention.rauq,
        "arXiv 2505.20045",
        "one minus the mean log of the tokens' probabilities, each blended with those before it "
        "as far as attention carries them; the most uncertain of the middle layers",
    ),
    Method(
        "rauq_entropy",
        frozenset({Need.ANSWER_STATISTICS, Need.ANSWER_ATTENTION}),
        attention.rauq_entropy,
        "arXiv 2505.20045",
        "one minus the mean log of how far the tokens' entropies lie below the largest, each "
        "blended with those before it as far as attention carries them; the most uncertain of "
        "the middle layers",
    ),
    Method(
        "csl",
        frozenset({Need.ANSWER_LOGPROBS, Need.JUDGING_ATTENTION}),
        attention.csl,
        "EMNLP 2024, main 578",
        "minus the mean log-probability of the answer's tokens, nats, weighted with what the "
        "model attends to when it is about to judge the answer",
    ),
)
OF_HEADS: Final = (
    Method(
        "uhead",
        frozenset({Need.UHEAD}),
        uhead,
        "EMNLP 2025, main 1809",
        "probability that the answer is wrong, by a network trained on what this model's layers "
        "make of right and wrong answers",
        complement,
    ),
)
