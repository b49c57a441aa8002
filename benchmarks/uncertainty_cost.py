"""Table 4: estimates of uncertainty against the same samples without them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import chat_cost
from benchmarks.load_client import Client, Label, Results
from benchmarks.servers import CONF, MODEL_NAME, Server, ServerError
from benchmarks.summary_time import median_us
from conf_server.stats.columns import NUM_TOKEN_STATISTICS
from conf_server.uncertainty.evidence import Alternatives, Evidence, Generation
from conf_server.uncertainty.needs import READING
from conf_server.uncertainty.pairs import assemble, from_similarities, unique_pairs
from conf_server.uncertainty.registry import METHODS
from conf_server.uncertainty.words.overlap import jaccard, rouge_l

PATH = "/v1/uncertainty"
JUDGEMENTS = "(judgements by rouge_l)"
ALTERNATIVES = 10
SAMPLES = 10
PLAIN = f"chat, n={SAMPLES}"
SAMPLED = ["monte_carlo_normalized_sequence_entropy", "lexical_similarity_rougeL", "consistency"]
GRAPH = ["semantic_entropy", "deg_mat", "eig_val_laplacian", "cocoa_ppl"]
WAYS: Mapping[str, tuple[Sequence[str], str]] = {
    "fast and sampled methods": (["fast", *SAMPLED], "jaccard"),
    "those and semantic ones, rouge_l": (["fast", *SAMPLED, *GRAPH], "rouge_l"),
}
LABELS: tuple[Label, ...] = ((CONF, PLAIN), *((CONF, name) for name in WAYS))


def _request(prompt: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "seed": 1,
    }


def _body(name: str, prompt: str, max_tokens: int) -> tuple[str, bytes]:
    request = _request(prompt, max_tokens)
    if name == PLAIN:
        plain = request | {"n": SAMPLES, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
        return chat_cost.PATH, json.dumps(plain).encode()
    methods, similarity = WAYS[name]
    options = {"methods": methods, "similarity": similarity, "n_samples": SAMPLES}
    return PATH, json.dumps(request | {"uncertainty": options}).encode()


async def run(
    client: Client, servers: Mapping[str, Server], bar: tqdm, *, rounds: int, max_tokens: int
) -> Results:
    """Measure every way once a round, in another order each round, one request at a time.

    The greedy answer, which plain chat does not give, is part of what is timed.
    """
    results: Results = {label: [] for label in LABELS}
    for number in range(rounds + 1):
        for label in random.Random(number).sample(LABELS, len(LABELS)):
            bar.set_postfix_str(f"uncertainty: {label[1]}")
            (prompt,) = chat_cost.prompts(1, number)
            path, body = _body(label[1], prompt, max_tokens)
            taken, (answer,) = await client.measure(
                servers[CONF],
                path,
                [body],
                concurrency=1,
                tokens=SAMPLES * max_tokens,
                items=SAMPLES,
            )
            if not {"choices", "estimates"} & json.loads(answer).keys():
                raise ServerError(f"{label} answered {answer[:1000]!r}")
            if number:  # the first warms up
                results[label].append(taken)
            bar.update()
    return results


def baseline(label: Label) -> Label:
    return (label[0], PLAIN)


def steps(rounds: int) -> int:
    """Return how often `run` moves the progress bar."""
    return (rounds + 1) * len(LABELS)


def estimator_us(samples: int = SAMPLES, tokens: int = 200) -> dict[str, float]:
    """Time each estimator in process, and the judgements by rouge_l before them, in µs.

    Those that read the model's layers are left out: what they cost is the reading (table 6).
    """
    evidence = _evidence(samples, tokens)
    assert evidence.answer is not None
    texts = [evidence.answer.text, *(sample.text for sample in evidence.samples)]
    pairs = [(texts[i], texts[j]) for i, j in unique_pairs(texts, symmetric=True)]
    estimators = {
        name: median_us(partial(method.estimate, evidence))
        for name, method in METHODS.items()
        if not any(need.asks & READING for need in method.needs)
    }
    return estimators | {JUDGEMENTS: median_us(partial(rouge_l, pairs))}


def _evidence(samples: int, tokens: int) -> Evidence:
    """Make random answers of random words, which are about as alike as samples are."""
    draw = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(300)])

    def generation() -> Generation:
        text = " ".join(draw.choice(words, tokens))
        statistics = -draw.gamma(2.0, 1.0, (tokens, NUM_TOKEN_STATISTICS))
        return Generation(text, -draw.gamma(1.0, 1.0, tokens), statistics)

    answer, *others = (generation() for _ in range(samples + 1))
    texts = [answer.text, *(other.text for other in others)]
    pairs = unique_pairs(texts, symmetric=True)
    similarities = jaccard([(texts[i], texts[j]) for i, j in pairs])
    judged = assemble(texts, pairs, from_similarities(similarities), symmetric=True)
    labels = (-0.4, -1.1)
    alternatives = np.sort(-draw.gamma(1.0, 1.0, (tokens, ALTERNATIVES)), axis=1)[:, ::-1]
    judged_words = draw.dirichlet((1, 1, 1), (tokens, 2, ALTERNATIVES))
    relevance = draw.uniform(0, 1, (samples + 1, tokens))
    return Evidence(
        answer=answer,
        samples=tuple(others),
        vocab_size=49_152,
        unconditional_logprobs=-draw.gamma(1.0, 1.0, tokens),
        judgements=judged,
        answer_token_similarity=relevance[0],
        sample_token_similarity=tuple(relevance[1:]),
        p_true_logprobs=labels,
        p_true_sampling_logprobs=labels,
        p_true_samples=("True",) * samples,
        verbalized_1s="Guess: word7\nProbability: 0.7",
        verbalized_2s="Probability: 0.7",
        linguistic_1s="Guess: word7\nConfidence: Likely",
        claims=tuple(map(Alternatives, alternatives, *np.swapaxes(judged_words, 0, 1))),
        extracted_answers=tuple(str(number % 3) for number in range(samples)),
    )
