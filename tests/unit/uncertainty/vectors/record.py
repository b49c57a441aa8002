"""Records lm-polygraph 0.7.0's own numbers in vectors.json, which the unit tests compare with.

Wants lm-polygraph 0.7.0 installed and nothing of conf_server:

    python tests/unit/uncertainty/vectors/record.py

A case is what one request knows: an answer with its full distributions, samples, a judge's
matrices over [answer, *samples]. Inputs are rounded before they are used.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lm_polygraph import estimators
from lm_polygraph.estimators.p_true_empirical import PTrueEmpirical
from lm_polygraph.stat_calculators.semantic_classes import SemanticClassesCalculator
from nltk.stem.porter import PorterStemmer

VERSION = "0.7.0"
VOCABULARY = 12
STATE_SIZE = 6
LAYERS, HEADS = 6, 3
PROMPT_TOKENS = 5
ENTAILMENT = 2  # of DeBERTa's labels contradiction, neutral, entailment
PROBABILITY = r"Probability: (\d+\.\d+)"
EXPRESSIONS = {"Probably Not": 0.25, "Highly Likely": 0.9, "Probably": 0.7}

TEXTS = {
    "paraphrases": (
        "The capital of France is Paris.",
        "Paris is the capital of France.",
        "The capital of France is Paris.",
        "It's Paris, of course!",
        "France's capital city: Lyon",
    ),
    "identical": ("Forty-two.",) * 5,
    "nothing in common": ("yes", "no", "maybe so", "I cannot tell", "Да, конечно"),
    "inflections": (
        "The runners were happily running relational databases",
        "A runner happily runs the relational database",
        "Running databases, the runner is happy and relates",
        "hopefulness and communism, adjustable irritants; dying flies",
    ),
    "short": ("?", "a b c", "a b", "a", "", "a b c d", "a b c d e", "b a"),
    "repetitions": ("the the the the the", "the the the cat", "the cat the cat the cat", "cat"),
    "long": tuple(
        " ".join(f"word{(i * k * k + i // 3) % 17} is" for i in range(30)) for k in (1, 2, 3, 5)
    ),
    "one sample": ("Paris", "Paris or Lyon"),
}
WORDS = """
caresses ponies ties caress cats feed agreed plastered bled motoring sing conflated troubled
sized hopping tanned falling hissing fizzed failing filing happy sky relational conditional
rational valenci hesitanci digitizer conformabli radicalli differentli vileli analogousli
vietnamization predication operator feudalism decisiveness hopefulness callousness formaliti
sensitiviti sensibiliti triplicate formative formalize electriciti electrical hopeful goodness
revival allowance inference airliner gyroscopic adjustable defensible irritant replacement
adjustment dependent adoption homologou communism activate angulariti homologous effective
bowdlerize probate rate cease controll roll skies dying lying tying news innings inning outings
cannings howe proceed exceed succeed spied died flies dies enjoy enjoyment spy fly try geology
theology archaeology hopefully gracefully logically basically yyyy syzygy toy say ably owed
1980s covid19 a3ing ion tion million opinion bring string being seed indeed speed owing ally
"""


def rounded(array: Any) -> Any:
    return np.round(np.asarray(array, float), 4)


def judgements(rng: np.random.Generator, texts: tuple[str, ...], kind: str) -> np.ndarray:
    """(3, k, k): entail, neutral, contradict; a text and its repetitions entail each other."""
    distinct = sorted(set(texts))
    k = len(distinct)
    probabilities = rounded(rng.dirichlet((0.6, 0.4, 0.4), (k, k)))
    if kind == "similarity":
        entail = rounded(rng.random((k, k)))
        entail = np.maximum(entail, entail.T)
        probabilities = np.stack((entail, np.zeros((k, k)), 1 - entail), axis=-1)
    if kind == "certain":
        probabilities = np.eye(3)[rng.choice(3, (k, k), p=(0.6, 0.2, 0.2))]
    probabilities[..., 2] = rounded(1 - probabilities[..., 0] - probabilities[..., 1])
    probabilities[np.diag_indices(k)] = (1, 0, 0)
    index = [distinct.index(text) for text in texts]
    return np.moveaxis(probabilities[np.ix_(index, index)], -1, 0)


def inputs(seed: int, texts: tuple[str, ...], kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n, (answer, *samples) = 4 + seed % 4, texts
    logits = rng.normal(scale=2, size=(n, VOCABULARY))
    distributions = rounded(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    lengths = rng.integers(1, 7, len(samples))
    entail, neutral, contradict = judgements(rng, texts, kind)
    return {
        "answer": answer,
        "token_ids": rng.integers(0, VOCABULARY, n),
        "distributions": distributions,
        "samples": samples,
        "sample_logprobs": [-rounded(rng.exponential(1.5, k)) for k in lengths],
        "unconditional_logprobs": -rounded(rng.exponential(2.5, n)),
        "entail": entail,
        "neutral": neutral,
        "contradict": contradict,
        "answer_token_similarity": rounded(rng.random(n)),
        "sample_token_similarity": [rounded(rng.random(k)) for k in lengths],
        "p_true": -rounded(rng.exponential(1, 2)),
        "p_true_sampling": -rounded(rng.exponential(1, 2)),
        "p_true_samples": rng.choice(["True", " (A) True", "False", "true"], 7).tolist(),
        "verbalized_1s": f"Guess: {answer}\nProbability: {seed % 7 / 7:.3f}",
        "verbalized_2s": f"Probability: {seed % 5 / 5:.2f}." if seed % 3 else "I do not know",
        "linguistic_1s": f"Guess: {answer}\nConfidence: {[*EXPRESSIONS, 'Hm'][seed % 4]}",
        "claims": [alternatives(rng, 1 + i) for i in range(n)],
        "sample_states": rounded(rng.normal(size=(len(samples), STATE_SIZE))),
        "self_attention": rounded(rng.random((LAYERS, HEADS, PROMPT_TOKENS + n))),
        "judging_attention": rounded(rng.random((LAYERS * HEADS, n))),
    }


def attention(case: dict[str, Any]) -> dict[str, Any]:
    """What the tokens pay to themselves, where lm-polygraph looks for it.

    RAUQ looks one place below the diagonal of the answer's own matrix.
    """
    own = case["self_attention"]
    n = len(case["distributions"])
    whole = np.zeros((*own.shape, own.shape[-1]))
    whole[..., np.arange(own.shape[-1]), np.arange(own.shape[-1])] = own
    answer = np.zeros((LAYERS * HEADS, n, n))
    before_last = own[..., PROMPT_TOKENS:-1].reshape(LAYERS * HEADS, n - 1)
    answer[:, np.arange(1, n), np.arange(n - 1)] = before_last
    return {
        "forwardpass_attention_weights": [whole],
        "attention_all": [answer],
        "attention_weights_eliciting_prompt": [case["judging_attention"].copy()],
    }


def alternatives(rng: np.random.Generator, k: int) -> dict[str, Any]:
    return {
        "logprobs": -rounded(rng.exponential(2, k)),
        "forward": rounded(rng.dirichlet((1, 1, 1), k)),
        "backward": rounded(rng.dirichlet((1, 1, 1), k)),
    }


def statistics(case: dict[str, Any]) -> dict[str, Any]:
    """One request as a batch of lm-polygraph's statistics."""
    distributions, samples = case["distributions"], case["samples"]
    own = distributions[np.arange(len(distributions)), case["token_ids"]]
    e, n, c = (case[name] for name in ("entail", "neutral", "contradict"))
    with np.errstate(divide="ignore"):
        entail_logits, contradict_logits = np.log(e[1:, 1:]), np.log(c[1:, 1:])
    labels = np.stack((c, n, e))[:, 1:, 1:].argmax(axis=0)
    stats = {
        "greedy_texts": [case["answer"]],
        "greedy_tokens": [case["token_ids"]],
        "greedy_log_probs": [distributions],
        "greedy_log_likelihoods": [own],
        "greedy_lm_log_likelihoods": [case["unconditional_logprobs"]],
        "entropy": [-(np.exp(distributions) * distributions).sum(axis=1)],
        "sample_texts": [samples],
        "sample_tokens": [case["sample_logprobs"]],
        "sample_log_likelihoods": [case["sample_logprobs"]],
        "sample_log_probs": [[x.sum() for x in case["sample_logprobs"]]],
        "semantic_matrix_entail": e[None, 1:, 1:],
        "semantic_matrix_contra": c[None, 1:, 1:],
        "semantic_matrix_entail_logits": [entail_logits],
        "semantic_matrix_contra_logits": [contradict_logits],
        "semantic_matrix_classes": labels[None],
        "entailment_id": ENTAILMENT,
        "greedy_semantic_matrix_contra_forward": [c[0, 1:]],
        "greedy_semantic_matrix_neutral_forward": [n[0, 1:]],
        "sample_sentence_similarity": [e[1:, 1:]],
        "greedy_sentence_similarity": [(e[0, 1:] + e[1:, 0]) / 2],
        "token_similarity": [case["answer_token_similarity"]],
        "sample_token_similarity": [case["sample_token_similarity"]],
        "p_true": [case["p_true"][0]],
        "p_true_sampling": [case["p_true_sampling"][0]],
        "input_texts": ["?"],
        "sample_embeddings": [case["sample_states"]],
        **attention(case),
        **claims(case["claims"]),
    }
    return stats | SemanticClassesCalculator()(stats, ["?"], None)


def claims(positions: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("entail", "neutral", "contra")
    words, verdicts = [], []
    for position in positions:
        k = len(position["logprobs"])
        words.append([(f"w{i}", logprob) for i, logprob in enumerate(position["logprobs"])])
        matrix: list[list[str | None]] = [[None] * k for _ in range(k)]
        for i in range(k):
            matrix[0][i] = names[position["forward"][i].argmax()]
            matrix[i][0] = names[position["backward"][i].argmax()]
        matrix[0][0] = "entail"
        verdicts.append(matrix)
    return {"greedy_tokens_alternatives": [words], "greedy_tokens_alternatives_nli": [verdicts]}


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "perplexity": estimators.Perplexity,
    "maximum_sequence_probability": estimators.MaximumSequenceProbability,
    "mean_token_entropy": estimators.MeanTokenEntropy,
    "self_certainty": estimators.SelfCertainty,
    "renyi_neg": estimators.RenyiNeg,
    "fisher_rao": estimators.FisherRao,
    "boosted_prob_sequence": estimators.BoostedProbSequence,
    "mean_pointwise_mutual_information": estimators.MeanPointwiseMutualInformation,
    "mean_conditional_pointwise_mutual_information": (
        estimators.MeanConditionalPointwiseMutualInformation
    ),
    "monte_carlo_sequence_entropy": estimators.MonteCarloSequenceEntropy,
    "monte_carlo_normalized_sequence_entropy": estimators.MonteCarloNormalizedSequenceEntropy,
    "semantic_entropy": estimators.SemanticEntropy,
    "semantic_entropy_unique": lambda: estimators.SemanticEntropy(use_unique_responses=True),
    "semantic_entropy_empirical": lambda: estimators.SemanticEntropy(
        class_probability_estimation="frequency"
    ),
    "label_prob": estimators.LabelProb,
    "semantic_density": lambda: estimators.SemanticDensity(concat_input=False),
    "lexical_similarity_rouge1": lambda: estimators.LexicalSimilarity("rouge1"),
    "lexical_similarity_rouge2": lambda: estimators.LexicalSimilarity("rouge2"),
    "lexical_similarity_rougeL": lambda: estimators.LexicalSimilarity("rougeL"),
    "lexical_similarity_bleu": lambda: estimators.LexicalSimilarity("BLEU"),
    "num_sem_sets": estimators.NumSemSets,
    "deg_mat": estimators.DegMat,
    "deg_mat_contra": lambda: estimators.DegMat(affinity="contra"),
    "eccentricity": estimators.Eccentricity,
    "eccentricity_contra": lambda: estimators.Eccentricity(affinity="contra"),
    "eig_val_laplacian": estimators.EigValLaplacian,
    "eig_val_laplacian_contra": lambda: estimators.EigValLaplacian(affinity="contra"),
    "kernel_language_entropy": estimators.KernelLanguageEntropy,
    "luq": estimators.LUQ,
    "token_sar": estimators.TokenSAR,
    "sentence_sar": estimators.SentenceSAR,
    "sar": estimators.SAR,
    "cocoa_msp": estimators.CocoaMSP,
    "cocoa_ppl": estimators.CocoaPPL,
    "cocoa_mte": estimators.CocoaMTE,
    "p_true": estimators.PTrue,
    "p_true_sampling": estimators.PTrueSampling,
    "p_true_empirical": PTrueEmpirical,
    "verbalized_1s": lambda: estimators.Verbalized1S(PROBABILITY),
    "verbalized_2s": lambda: estimators.Verbalized2S("How sure?", PROBABILITY),
    "linguistic_1s": lambda: estimators.Linguistic1S(EXPRESSIONS),
    "claim_conditioned_probability": estimators.ClaimConditionedProbability,
    "eigenscore": estimators.EigenScore,
    "attention_score": lambda: estimators.AttentionScore(layer=LAYERS // 2),
    "attention_score_gen_only": lambda: estimators.AttentionScore(LAYERS // 2, gen_only=True),
    "rauq": lambda: estimators.RAUQ(n_layers=LAYERS, n_heads=HEADS),
    "rauq_entropy": lambda: estimators.RAUQ(n_layers=LAYERS, n_heads=HEADS, use_entropy=True),
    "csl": estimators.CSL,
}
ANSWERS = {
    "p_true_empirical": "p_true_samples",
    "verbalized_2s": "verbalized_2s",
    "verbalized_1s": "verbalized_1s",
    "linguistic_1s": "linguistic_1s",
}
"""Which of a case's texts the model writes for an estimator."""


def outputs(case: dict[str, Any]) -> dict[str, float | None]:
    """Each estimator's number; None where lm-polygraph has NaN or infinity."""
    stats, found = statistics(case), {}
    for name, estimator in ESTIMATORS.items():
        written = case[ANSWERS[name]] if name in ANSWERS else None
        texts = [written] if isinstance(written, str) else written
        # A model that has written these already.
        model = SimpleNamespace(generate_texts=lambda *_args, texts=texts, **_options: texts)
        asked = {"greedy_texts": texts} if name in ("verbalized_1s", "linguistic_1s") else {}
        value = float(estimator()(stats | asked | {"model": model})[0])
        found[name] = value if math.isfinite(value) else None
    return found


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def main() -> None:
    if version("lm-polygraph") != VERSION:
        raise SystemExit(f"wants lm-polygraph {VERSION}, found {version('lm-polygraph')}")
    warnings.simplefilter("ignore")
    cases = []
    for seed, (name, texts) in enumerate(TEXTS.items()):
        for kind in ("judge", "similarity", "certain"):
            case = inputs(seed, texts, kind)
            cases.append({"name": f"{name}, {kind}", "inputs": case, "outputs": outputs(case)})
    stemmer = PorterStemmer()
    lines = ",\n".join(json.dumps(plain(case), ensure_ascii=False) for case in cases)
    stems = json.dumps({word: stemmer.stem(word) for word in WORDS.split()})
    text = f'{{"version": "{VERSION}",\n"stems": {stems},\n"cases": [\n{lines}\n]}}\n'
    Path(__file__).with_name("vectors.json").write_text(text)


if __name__ == "__main__":
    main()
