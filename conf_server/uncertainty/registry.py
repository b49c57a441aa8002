"""Every method of estimating uncertainty, by name, with what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from conf_server.uncertainty.estimate import Estimate
from conf_server.uncertainty.evidence import Evidence
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

__all__ = ["FAST", "GROUPS", "METHODS", "Estimate", "Method", "resolve"]


@dataclass(frozen=True)
class Method:
    """A way to estimate uncertainty.

    Attributes:
        name: lm-polygraph's, in snake case, where it has the method.
        needs: what `estimate` reads.
        estimate: raises MissingEvidenceError where something it needs is not there.
        source: paper or code that defines the number.
        description: one line for people.
    """

    name: str
    needs: frozenset[Need]
    estimate: Callable[[Evidence], Estimate]
    source: str
    description: str


_LOGPROBS = frozenset({Need.ANSWER_LOGPROBS})
_STATISTICS = frozenset({Need.ANSWER_STATISTICS})
_UNCONDITIONAL = frozenset({Need.ANSWER_LOGPROBS, Need.UNCONDITIONAL})
_SAMPLES = frozenset({Need.SAMPLES})
_SAMPLE_LOGPROBS = frozenset({Need.SAMPLES, Need.SAMPLE_LOGPROBS})
_JUDGEMENTS = frozenset({Need.SAMPLES, Need.JUDGEMENTS})
_JUDGED_LOGPROBS = _SAMPLE_LOGPROBS | _JUDGEMENTS


def _logprob_metric(name: str, source: str, description: str) -> Method:
    return Method(name, _LOGPROBS, token_metrics.logprob_metric(name), source, description)


def _statistics_metric(name: str, source: str, description: str) -> Method:
    return Method(name, _STATISTICS, token_metrics.statistics_metric(name), source, description)


_ALL: Final = (
    _logprob_metric(
        "perplexity", "lm-polygraph Perplexity", "minus the mean log-probability of the tokens"
    ),
    _logprob_metric(
        "maximum_sequence_probability",
        "lm-polygraph MaximumSequenceProbability",
        "minus the log-probability of the answer",
    ),
    _statistics_metric(
        "mean_token_entropy", "lm-polygraph MeanTokenEntropy", "mean entropy of the tokens"
    ),
    _statistics_metric(
        "max_token_entropy", "conf_server.stats.metrics", "largest entropy of a token"
    ),
    _statistics_metric(
        "self_certainty", "arXiv 2502.18581", "minus the divergence from a flat distribution"
    ),
    _statistics_metric(
        "renyi_neg",
        "arXiv 2212.09171",
        "Rényi divergence from a flat distribution; higher = more certain",
    ),
    _statistics_metric(
        "fisher_rao",
        "arXiv 2212.09171",
        "Fisher-Rao distance from a flat distribution; higher = more certain",
    ),
    _statistics_metric(
        "probability_gap", "conf_server.stats.metrics", "how little the likeliest token leads"
    ),
    Method(
        "mean_pointwise_mutual_information",
        _UNCONDITIONAL,
        token_metrics.mean_pointwise_mutual_information,
        "lm-polygraph MeanPointwiseMutualInformation",
        "how little the prompt makes the answer likelier",
    ),
    Method(
        "mean_conditional_pointwise_mutual_information",
        _UNCONDITIONAL | _STATISTICS,
        token_metrics.mean_conditional_pointwise_mutual_information,
        "arXiv 2210.13210",
        "the same, counted where the model hesitates",
    ),
    Method(
        "monte_carlo_sequence_entropy",
        _SAMPLE_LOGPROBS,
        sequence_entropy.monte_carlo_sequence_entropy,
        "arXiv 2302.09664",
        "entropy of whole answers",
    ),
    Method(
        "monte_carlo_normalized_sequence_entropy",
        _SAMPLE_LOGPROBS,
        sequence_entropy.monte_carlo_normalized_sequence_entropy,
        "arXiv 2302.09664",
        "entropy of whole answers, for each token",
    ),
    Method(
        "semantic_entropy",
        _JUDGED_LOGPROBS,
        semantic_entropy.semantic_entropy,
        "arXiv 2302.09664",
        "entropy of meanings",
    ),
    Method(
        "semantic_density",
        _JUDGED_LOGPROBS | _LOGPROBS,
        semantic_entropy.semantic_density,
        "arXiv 2405.13845",
        "how little of the probability lies near the answer's meaning",
    ),
    Method(
        "lexical_similarity_rouge1",
        _SAMPLES,
        lexical_similarity.lexical_similarity_rouge_n(1),
        "lm-polygraph LexicalSimilarity",
        "how few words the samples share",
    ),
    Method(
        "lexical_similarity_rouge2",
        _SAMPLES,
        lexical_similarity.lexical_similarity_rouge_n(2),
        "lm-polygraph LexicalSimilarity",
        "how few pairs of words the samples share",
    ),
    Method(
        "lexical_similarity_rougeL",
        _SAMPLES,
        lexical_similarity.lexical_similarity_rouge_l,
        "lm-polygraph LexicalSimilarity",
        "how few words the samples share in the same order",
    ),
    Method(
        "lexical_similarity_bleu",
        _SAMPLES,
        lexical_similarity.lexical_similarity_bleu,
        "lm-polygraph LexicalSimilarity",
        "how few phrases the samples share",
    ),
    Method(
        "num_sem_sets",
        _JUDGEMENTS,
        semantic_graph.num_sem_sets,
        "arXiv 2305.19187",
        "number of meanings among the samples",
    ),
    Method(
        "deg_mat",
        _JUDGEMENTS,
        semantic_graph.deg_mat,
        "arXiv 2305.19187",
        "mean dissimilarity of the samples",
    ),
    Method(
        "eccentricity",
        _JUDGEMENTS,
        semantic_graph.eccentricity,
        "arXiv 2305.19187",
        "spread of the samples around their centre",
    ),
    Method(
        "eig_val_laplacian",
        _JUDGEMENTS,
        semantic_graph.eig_val_laplacian,
        "arXiv 2305.19187",
        "number of meanings, counted smoothly",
    ),
    Method(
        "kernel_language_entropy",
        _JUDGEMENTS,
        semantic_graph.kernel_language_entropy,
        "arXiv 2405.20003",
        "entropy of a kernel over the samples",
    ),
    Method(
        "luq",
        _JUDGEMENTS,
        semantic_graph.luq,
        "EMNLP 2024, main 299",
        "how little the samples support one another",
    ),
    Method(
        "token_sar",
        _LOGPROBS | {Need.TOKEN_SIMILARITY},
        relevance.token_sar,
        "arXiv 2307.01379",
        "log-probability of the tokens that matter",
    ),
    Method(
        "sentence_sar",
        _JUDGED_LOGPROBS,
        relevance.sentence_sar,
        "arXiv 2307.01379",
        "entropy of whole answers, backed by similar ones",
    ),
    Method(
        "sar",
        _JUDGED_LOGPROBS | {Need.SAMPLE_TOKEN_SIMILARITY},
        relevance.sar,
        "arXiv 2307.01379",
        "both of these together",
    ),
    Method(
        "cocoa_msp",
        _JUDGEMENTS | _LOGPROBS,
        cocoa.cocoa_msp,
        "arXiv 2502.04964",
        "improbability of the answer times its dissimilarity to the samples",
    ),
    Method(
        "cocoa_ppl",
        _JUDGEMENTS | _LOGPROBS,
        cocoa.cocoa_ppl,
        "arXiv 2502.04964",
        "improbability of its tokens times that dissimilarity",
    ),
    Method(
        "cocoa_mte",
        _JUDGEMENTS | _STATISTICS,
        cocoa.cocoa_mte,
        "arXiv 2502.04964",
        "entropy of its tokens times that dissimilarity",
    ),
    Method(
        "consistency",
        frozenset({Need.EXTRACTED_ANSWERS}),
        consistency,
        "arXiv 2203.11171",
        "share of samples that end in another answer than most",
    ),
    Method(
        "p_true",
        frozenset({Need.P_TRUE}),
        reflection.p_true,
        "arXiv 2207.05221",
        "minus the log-probability that the model calls its answer true",
    ),
    Method(
        "p_true_sampling",
        frozenset({Need.P_TRUE_SAMPLING}),
        reflection.p_true_sampling,
        "arXiv 2207.05221",
        "the same when it has seen the samples",
    ),
    Method(
        "p_true_empirical",
        frozenset({Need.P_TRUE_SAMPLES}),
        reflection.p_true_empirical,
        "lm-polygraph PTrueEmpirical",
        "how seldom it calls its answer true when asked repeatedly",
    ),
    Method(
        "verbalized_1s",
        frozenset({Need.VERBALIZED_1S}),
        reflection.verbalized_1s,
        "arXiv 2305.14975",
        "one minus the probability that it states with the answer",
    ),
    Method(
        "verbalized_2s",
        frozenset({Need.VERBALIZED_2S}),
        reflection.verbalized_2s,
        "arXiv 2305.14975",
        "one minus the probability that it states afterwards",
    ),
    Method(
        "linguistic_1s",
        frozenset({Need.LINGUISTIC_1S}),
        reflection.linguistic_1s,
        "arXiv 2305.14975",
        "one minus what its own words for confidence stand for",
    ),
    Method(
        "claim_conditioned_probability",
        frozenset({Need.CLAIMS}),
        claim_conditioned_probability,
        "arXiv 2403.04696",
        "improbability of what is claimed, whatever the wording",
    ),
)

METHODS: Final[Mapping[str, Method]] = MappingProxyType({method.name: method for method in _ALL})
"""Every method by name."""
FAST: Final = tuple(
    name for name, method in METHODS.items() if method.needs <= _LOGPROBS | _STATISTICS
)
"""Names of those that need nothing but the answer's own tokens."""
GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "fast": FAST,
        "all": tuple(METHODS),
        **{
            family: tuple(name for name in METHODS if name.startswith(f"{family}_"))
            for family in ("lexical_similarity", "cocoa")
        },
    }
)
"""Names that stand for several: what costs nothing, everything, and lm-polygraph's families."""


def resolve(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name or group, each once, in the order asked for.

    Raises:
        KeyError: holding the first name that is neither.
    """
    asked = [name for given in names for name in GROUPS.get(given, (given,))]
    return tuple(METHODS[name] for name in dict.fromkeys(asked))
