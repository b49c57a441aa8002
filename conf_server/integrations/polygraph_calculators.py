"""lm-polygraph's statistics, by its names, from a served model's exact numbers.

Each calculator gives what the calculator of lm-polygraph that it replaces gives, in the same
shape. Statistics are plain dictionaries there, keyed by name, with one entry for each text.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from lm_polygraph.stat_calculators import (
    ClaimPromptCalculator,
    PromptCalculator,
    SamplingPromptCalculator,
    StatCalculator,
)

from conf_server.integrations.polygraph_generation import (
    continuation_logprobs,
    forced_distributions,
    forced_log_likelihoods,
    generated,
    without_tokens,
)
from conf_server.integrations.polygraph_model import ServedCausalLM, decoding_of, unpadded
from conf_server.integrations.polygraph_stats import Stats, greedy_stats, sample_stats

MIN_NEW_TOKENS: Final = 2
"""Tokens that lm-polygraph forbids a model to end its answer with."""


def served_model(model: Any) -> ServedCausalLM:
    """The served model in a `WhiteboxModel`.

    Raises:
        TypeError: there is none.
    """
    found = getattr(model, "model", None)
    if not isinstance(found, ServedCausalLM):
        raise TypeError(
            f"{type(found).__name__}: these calculators need a model of "
            "conf_server.integrations.lm_polygraph.load_model"
        )
    return found


def prompts_of(model: Any, texts: list[Any]) -> list[list[int]]:
    """The tokens of texts or chats, as lm-polygraph tokenizes them."""
    batch = model.tokenize(texts)
    return unpadded(batch["input_ids"], batch["attention_mask"])


class ServedGreedyCalculator(StatCalculator):
    """Answers and their statistics: GreedyProbsCalculator and EntropyCalculator in one.

    What they have and a served model has not (`greedy_log_probs`, `embeddings`, `attention_all`)
    is left to others.
    """

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        names = ["input_texts", "input_tokens", "tokenizer", "entropy"]
        greedy = ["tokens", "tokens_alternatives", "texts", "log_likelihoods"]
        return [*names, *(f"greedy_{name}" for name in greedy)], []

    def __init__(self, n_alternatives: int = 10, min_new_tokens: int = MIN_NEW_TOKENS) -> None:
        """
        Args:
            n_alternatives: likeliest tokens to name at each position.
            min_new_tokens: tokens before which the answer may not end.
        """
        super().__init__()
        self.n_alternatives = n_alternatives
        self.min_new_tokens = min_new_tokens

    def __call__(
        self, dependencies: Stats, texts: list[Any], model: Any, max_new_tokens: int = 100
    ) -> Stats:
        served = served_model(model)
        prompts = prompts_of(model, texts)
        lengths = {"max_new_tokens": max_new_tokens, "min_new_tokens": self.min_new_tokens}
        answers = generated(
            served.client,
            prompts,
            decoding_of(asdict(model.generation_parameters) | lengths),
            candidates=self.n_alternatives,
            end_ids=served.end_ids,
        )
        return {
            "input_texts": texts,
            "input_tokens": model.tokenize(texts)["input_ids"].tolist(),
            "tokenizer": model.tokenizer,
            **greedy_stats([row[0] for row in answers], model.tokenizer),
        }


class ServedDistributionCalculator(StatCalculator):
    """`greedy_log_probs`: the whole vocabulary at each token of an answer.

    This is what a server sends least willingly: it has to be started with --max-logprobs -1, and
    a token takes megabytes of JSON. It runs only where an estimator reads these distributions.
    """

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return ["greedy_log_probs"], ["greedy_tokens"]

    def __init__(self, min_new_tokens: int = MIN_NEW_TOKENS) -> None:
        """
        Args:
            min_new_tokens: as of the calculator that has generated the answers.
        """
        super().__init__()
        self.min_new_tokens = min_new_tokens

    def __call__(
        self, dependencies: Stats, texts: list[Any], model: Any, max_new_tokens: int = 100
    ) -> Stats:
        served = served_model(model)
        found = []
        for prompt, answer in zip(
            prompts_of(model, texts), dependencies["greedy_tokens"], strict=True
        ):
            rows = forced_distributions(served.client, prompt, answer, served.vocabulary)
            first = slice(self.min_new_tokens)
            rows[first] = without_tokens(rows[first], served.end_ids)
            found.append(rows)
        return {"greedy_log_probs": found}


class ServedSamplingCalculator(StatCalculator):
    """Samples and their log-probabilities: SamplingGenerationCalculator.

    As there, the end token counts in `sample_log_probs`, and stands in none of the others.
    """

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        names = ("log_probs", "tokens", "texts", "log_likelihoods")
        return [f"sample_{name}" for name in names], []

    def __init__(self, samples_n: int = 10, min_new_tokens: int = MIN_NEW_TOKENS) -> None:
        """
        Args:
            samples_n: samples of each text.
            min_new_tokens: tokens before which a sample may not end.
        """
        super().__init__()
        self.samples_n = samples_n
        self.min_new_tokens = min_new_tokens

    def __call__(
        self, dependencies: Stats, texts: list[Any], model: Any, max_new_tokens: int = 100
    ) -> Stats:
        served = served_model(model)
        options = {
            **{"max_new_tokens": max_new_tokens, "min_new_tokens": self.min_new_tokens},
            "do_sample": True,
        }
        samples = generated(
            served.client,
            prompts_of(model, texts),
            decoding_of(asdict(model.generation_parameters) | options),
            n=self.samples_n,
            end_ids=served.end_ids,
        )
        return sample_stats(samples, model.tokenizer)


class ServedLMCalculator(StatCalculator):
    """`greedy_lm_log_likelihoods`: the answers' tokens with nothing but the answer before them.

    These are log p(y_t | y_<t), as GreedyLMProbsCalculator documents it. Its code has
    log p(y_t | y_<=t), one position late. The first token has none, and no estimator reads it.
    """

    @staticmethod
    def meta_info() -> tuple[list[str], list[str]]:
        return ["greedy_lm_log_likelihoods"], ["greedy_tokens"]

    def __call__(
        self, dependencies: Stats, texts: list[Any], model: Any, max_new_tokens: int = 100
    ) -> Stats:
        answers = dependencies["greedy_tokens"]
        client = served_model(model).client
        rows = forced_log_likelihoods(client, [row[:1] for row in answers], _tails(answers))
        return {"greedy_lm_log_likelihoods": [[math.nan, *row] for row in rows]}


class _ServedPrompt:
    """How likely the served model is to go on with one word, after a prompt of lm-polygraph's."""

    prompt: str
    expected: str
    method: str
    input_text_dependency: str
    generation_text_dependency: str
    sample_text_dependency: str | None

    def __call__(
        self, dependencies: Stats, texts: list[Any], model: Any, max_new_tokens: int = 100
    ) -> Stats:
        served = served_model(model)
        answers = dependencies[self.generation_text_dependency]
        samples: list[list[str]] = [[] for _ in answers]
        if self.sample_text_dependency is not None:
            samples = dependencies[self.sample_text_dependency]
        asked = [
            self.prompt.format(q=question, a=answer, s=", ".join(ideas))
            for question, answer, ideas in zip(
                dependencies[self.input_text_dependency], answers, samples, strict=True
            )
        ]
        if not asked:
            return {self.method: np.array([])}
        word = _word(model.tokenizer, self.expected)
        # lm-polygraph generates one token here, which may not be the end of the answer.
        found = continuation_logprobs(
            served.client, prompts_of(model, asked), [word] * len(asked), served.end_ids
        )
        return {self.method: np.array(found)}


class ServedPromptCalculator(_ServedPrompt, PromptCalculator):
    """`p_true`."""


class ServedSamplingPromptCalculator(_ServedPrompt, SamplingPromptCalculator):
    """`p_true_sampling`."""


class ServedClaimPromptCalculator(_ServedPrompt, ClaimPromptCalculator):
    """`p_true_claim`."""


CALCULATORS: Final = (
    ServedGreedyCalculator,
    ServedDistributionCalculator,
    ServedSamplingCalculator,
    ServedLMCalculator,
    ServedPromptCalculator,
    ServedSamplingPromptCalculator,
    ServedClaimPromptCalculator,
)


def _tails(answers: list[list[int]]) -> list[list[int]]:
    return [row[1:] for row in answers]


def _word(tokenizer: Any, word: str) -> int:
    ids = tokenizer([word])["input_ids"][0]
    found = [one for one in ids if one not in (tokenizer.eos_token_id, tokenizer.bos_token_id)]
    if len(found) != 1:
        raise ValueError(f"{word!r}: {len(found)} tokens of this model; it has to be one")
    return found[0]
