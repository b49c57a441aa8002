"""The methods of this package, each with what it needs and where its number comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from conf_server.uncertainty.catalogue_fitted import FITTED_METHODS
from conf_server.uncertainty.inner_methods import OF_ATTENTION, OF_HEADS, OF_STATES
from conf_server.uncertainty.method import Floats, Method, complement, exponential, inverse
from conf_server.uncertainty.methods import (
    cocoa,
    lexical_similarity,
    reflection,
    relevance,
    semantic_entropy,
    semantic_graph,
    sequence_entropy,
    token_metrics,
)
from conf_server.uncertainty.methods.claim_conditioned_probability import (
    claim_conditioned_probability,
)
from conf_server.uncertainty.methods.consistency import consistency
from conf_server.uncertainty.needs import Need

_LOGPROBS = frozenset({Need.ANSWER_LOGPROBS})
_STATISTICS = frozenset({Need.ANSWER_STATISTICS})
_UNCONDITIONAL = frozenset({Need.ANSWER_LOGPROBS, Need.UNCONDITIONAL})
_SAMPLES = frozenset({Need.SAMPLES})
_SAMPLE_LOGPROBS = frozenset({Need.SAMPLES, Need.SAMPLE_LOGPROBS})
_JUDGEMENTS = frozenset({Need.SAMPLES, Need.JUDGEMENTS})
_JUDGED_LOGPROBS = _SAMPLE_LOGPROBS | _JUDGEMENTS


def _statistics_metric(
    name: str,
    source: str,
    description: str,
    confidence: Callable[[Floats], Floats] | None = None,
) -> Method:
    compute = token_metrics.statistics_metric(name)
    return Method(name, _STATISTICS, compute, source, description, confidence)


_OF_TOKENS: Final = (
    Method(
        "perplexity",
        _LOGPROBS,
        token_metrics.logprob_metric("perplexity"),
        "exp of lm-polygraph Perplexity",
        "exp of minus the mean log-probability of the answer's tokens; at least 1",
        inverse,
        is_ratio=True,
    ),
    Method(
        "maximum_sequence_probability",
        _LOGPROBS,
        token_metrics.logprob_metric("maximum_sequence_probability"),
        "lm-polygraph MaximumSequenceProbability",
        "minus the log-probability of the whole answer, nats",
        exponential,
    ),
    _statistics_metric(
        "mean_token_entropy",
        "lm-polygraph MeanTokenEntropy",
        "mean entropy of the answer's tokens, nats",
    ),
    _statistics_metric(
        "max_token_entropy",
        "conf_server.stats.metrics",
        "largest entropy among the answer's tokens, nats",
    ),
    _statistics_metric(
        "self_certainty",
        "arXiv 2502.18581",
        "minus the mean divergence of the flat distribution from the model's, nats; 0 where the "
        "model's is flat",
    ),
    _statistics_metric(
        "renyi_neg",
        "arXiv 2212.09171",
        "minus the mean Rényi divergence (order 1/2, temperature 2) of the model's distribution "
        "from the flat one, nats; 0 where the model's is flat",
    ),
    _statistics_metric(
        "fisher_rao",
        "arXiv 2212.09171",
        "minus the mean Fisher-Rao distance (temperature 2) of the model's distribution from the "
        "flat one; 0 where the model's is flat",
    ),
    _statistics_metric(
        "probability_gap",
        "conf_server.stats.metrics",
        "one minus the lead of the likeliest token over the second, mean over the answer",
        complement,
    ),
    Method(
        "boosted_prob_sequence",
        _LOGPROBS | _STATISTICS,
        token_metrics.statistics_metric("boosted_prob_sequence"),
        "EMNLP 2025, main 166",
        "minus the mean probability of the answer's tokens, those that stand out sharing theirs",
        np.negative,
    ),
    Method(
        "mean_pointwise_mutual_information",
        _UNCONDITIONAL,
        token_metrics.mean_pointwise_mutual_information,
        "lm-polygraph MeanPointwiseMutualInformation",
        "minus the mean gain in log-probability that the prompt gives the answer's tokens, nats",
    ),
    Method(
        "mean_conditional_pointwise_mutual_information",
        _UNCONDITIONAL | _STATISTICS,
        token_metrics.mean_conditional_pointwise_mutual_information,
        "arXiv 2210.13210",
        "minus the mean log-probability of the answer's tokens, reduced by what they have without "
        "the prompt wherever the model hesitates, nats",
    ),
)
_OF_SAMPLES: Final = (
    Method(
        "monte_carlo_sequence_entropy",
        _SAMPLE_LOGPROBS,
        sequence_entropy.monte_carlo_sequence_entropy,
        "arXiv 2302.09664",
        "minus the mean log-probability of the samples, nats",
    ),
    Method(
        "monte_carlo_normalized_sequence_entropy",
        _SAMPLE_LOGPROBS,
        sequence_entropy.monte_carlo_normalized_sequence_entropy,
        "arXiv 2302.09664",
        "minus the mean log-probability of the samples, each divided by its length, nats a token",
    ),
    Method(
        "semantic_entropy",
        _JUDGED_LOGPROBS,
        semantic_entropy.semantic_entropy,
        "arXiv 2302.09664",
        "minus the mean log of the summed probabilities of samples that mean the same, nats; "
        "not normalised, so it grows with the length of answers",
    ),
    Method(
        "semantic_entropy_unique",
        _JUDGED_LOGPROBS,
        semantic_entropy.semantic_entropy_unique,
        "lm-polygraph SemanticEntropyUnique",
        "minus the mean log of the summed probabilities of distinct samples that mean the same, "
        "nats; not normalised, so it grows with the length of answers",
    ),
    Method(
        "semantic_entropy_empirical",
        _JUDGEMENTS,
        semantic_entropy.semantic_entropy_empirical,
        "lm-polygraph SemanticEntropyEmpirical",
        "entropy of the meanings, by how many samples have each, nats; at most the log of the "
        "number of samples",
    ),
    Method(
        "label_prob",
        _JUDGEMENTS,
        semantic_entropy.label_prob,
        "lm-polygraph LabelProb",
        "share of the samples that do not have the commonest meaning",
        complement,
    ),
    Method(
        "semantic_density",
        _JUDGED_LOGPROBS | _LOGPROBS,
        semantic_entropy.semantic_density,
        "arXiv 2405.13845",
        "minus the share of the samples' probability that lies near the answer's meaning",
    ),
    *(
        Method(
            f"lexical_similarity_{name}",
            _SAMPLES,
            compute,
            "lm-polygraph LexicalSimilarity",
            f"minus the mean share of {what} that two samples have in common",
            family="lexical_similarity",
        )
        for name, compute, what in (
            ("rouge1", lexical_similarity.lexical_similarity_rouge_n(1), "words"),
            ("rouge2", lexical_similarity.lexical_similarity_rouge_n(2), "pairs of words"),
            (
                *("rougeL", lexical_similarity.lexical_similarity_rouge_l),
                "words in the same order",
            ),
            (
                *("bleu", lexical_similarity.lexical_similarity_bleu),
                "runs of one to four words",
            ),
        )
    ),
    Method(
        "num_sem_sets",
        _JUDGEMENTS,
        semantic_graph.num_sem_sets,
        "arXiv 2305.19187",
        "number of groups of samples that agree in meaning",
    ),
    Method(
        "deg_mat",
        _JUDGEMENTS,
        semantic_graph.deg_mat,
        "arXiv 2305.19187",
        "mean dissimilarity of the samples, one minus how far they entail each other",
        complement,
    ),
    Method(
        "deg_mat_contra",
        _JUDGEMENTS,
        semantic_graph.deg_mat_contra,
        "arXiv 2305.19187",
        "mean dissimilarity of the samples, as how far they contradict each other",
        complement,
    ),
    Method(
        "eccentricity",
        _JUDGEMENTS,
        semantic_graph.eccentricity,
        "arXiv 2305.19187",
        "spread of the samples around their centre, in the graph of who entails whom",
    ),
    Method(
        "eccentricity_contra",
        _JUDGEMENTS,
        semantic_graph.eccentricity_contra,
        "arXiv 2305.19187",
        "spread of the samples around their centre, in the graph of who contradicts nobody",
    ),
    Method(
        "eig_val_laplacian",
        _JUDGEMENTS,
        semantic_graph.eig_val_laplacian,
        "arXiv 2305.19187",
        "number of meanings, counted smoothly by who entails whom",
    ),
    Method(
        "eig_val_laplacian_contra",
        _JUDGEMENTS,
        semantic_graph.eig_val_laplacian_contra,
        "arXiv 2305.19187",
        "number of meanings, counted smoothly by who contradicts whom",
    ),
    Method(
        "kernel_language_entropy",
        _JUDGEMENTS,
        semantic_graph.kernel_language_entropy,
        "arXiv 2405.20003",
        "entropy of a heat kernel over the samples, 0 to 1",
    ),
    Method(
        "luq",
        _JUDGEMENTS,
        semantic_graph.luq,
        "EMNLP 2024, main 299",
        "how far the samples contradict rather than support one another, 0 to 1",
    ),
)
_OF_RELEVANCE: Final = (
    Method(
        "token_sar",
        _LOGPROBS | {Need.TOKEN_SIMILARITY},
        relevance.token_sar,
        "arXiv 2307.01379",
        "minus the mean log-probability of the answer's tokens, weighted by how much each "
        "matters to its meaning, nats",
    ),
    Method(
        "sentence_sar",
        _JUDGED_LOGPROBS,
        relevance.sentence_sar,
        "arXiv 2307.01379",
        "minus the mean log of the samples' probabilities, each raised by those of similar "
        "samples, nats",
    ),
    Method(
        "sar",
        _JUDGED_LOGPROBS | {Need.SAMPLE_TOKEN_SIMILARITY},
        relevance.sar,
        "arXiv 2307.01379",
        "minus the mean log of the samples' probabilities, weighted by the tokens that matter "
        "and raised by those of similar samples, nats",
    ),
    Method(
        "cocoa_msp",
        _JUDGEMENTS | _LOGPROBS,
        cocoa.cocoa_msp,
        "arXiv 2502.04964",
        "minus the answer's log-probability, times its mean dissimilarity to the samples",
        family="cocoa",
    ),
    Method(
        "cocoa_ppl",
        _JUDGEMENTS | _LOGPROBS,
        cocoa.cocoa_ppl,
        "arXiv 2502.04964",
        "minus the mean log-probability of the answer's tokens, times the answer's mean "
        "dissimilarity to the samples",
        family="cocoa",
    ),
    Method(
        "cocoa_mte",
        _JUDGEMENTS | _STATISTICS,
        cocoa.cocoa_mte,
        "arXiv 2502.04964",
        "mean entropy of the answer's tokens, times the answer's mean dissimilarity to the samples",
        family="cocoa",
    ),
    Method(
        "claim_conditioned_probability",
        frozenset({Need.CLAIMS}),
        claim_conditioned_probability,
        "arXiv 2403.04696",
        "minus the probability of what the answer claims, whatever the wording",
        np.negative,
    ),
)
_OF_REFLECTION: Final = (
    Method(
        "consistency",
        frozenset({Need.EXTRACTED_ANSWERS}),
        consistency,
        "arXiv 2203.11171",
        "share of the samples that do not end in the commonest final answer",
        complement,
    ),
    Method(
        "p_true",
        frozenset({Need.P_TRUE}),
        reflection.p_true,
        "arXiv 2207.05221",
        "minus the log-probability that the model calls its answer true, nats",
        exponential,
    ),
    Method(
        "p_true_sampling",
        frozenset({Need.P_TRUE_SAMPLING}),
        reflection.p_true_sampling,
        "arXiv 2207.05221",
        "minus the log-probability that the model calls its answer true when shown the samples, "
        "nats",
        exponential,
    ),
    Method(
        "p_true_empirical",
        frozenset({Need.P_TRUE_SAMPLES}),
        reflection.p_true_empirical,
        "lm-polygraph PTrueEmpirical",
        "share of the model's sampled verdicts that do not call its answer true",
        complement,
    ),
    Method(
        "verbalized_1s",
        frozenset({Need.VERBALIZED_1S}),
        reflection.verbalized_1s,
        "arXiv 2305.14975",
        "one minus the probability that the model states together with an answer",
        complement,
    ),
    Method(
        "verbalized_2s",
        frozenset({Need.VERBALIZED_2S}),
        reflection.verbalized_2s,
        "arXiv 2305.14975",
        "one minus the probability that the model states when asked after its answer",
        complement,
    ),
    Method(
        "linguistic_1s",
        frozenset({Need.LINGUISTIC_1S}),
        reflection.linguistic_1s,
        "arXiv 2305.14975",
        "one minus what the model's own expression of confidence stands for",
        complement,
    ),
)
CATALOGUE: Final = (
    *_OF_TOKENS,
    *_OF_SAMPLES,
    *_OF_RELEVANCE,
    *_OF_REFLECTION,
    *OF_STATES,
    *OF_ATTENTION,
    *FITTED_METHODS,
    *OF_HEADS,
)
"""In the order in which they are listed."""
