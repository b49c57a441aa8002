"""Answers of a served model with the exact numbers that lm-polygraph's calculators give.

Nothing here needs lm-polygraph or torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from conf_server.client import Client
from conf_server.client.scored import Scored
from conf_server.client.tokens import Json

MAX_ENTRIES: Final = 2_097_152
"""Tokens and candidates that an answer of /v1/score lists (the server's --max-score-entries)."""

LEAST_REST: Final = 1e-6
"""Below it, what end tokens leave to the others is lost in the rounding of float32."""

_ENTROPY: Final = "mean_token_entropy"
_TOKEN: Final = "token_id:"

Tokens = Sequence[int]


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: most tokens of an answer.
        min_new_tokens: so many tokens have to come before the one that ends the answer.
        temperature: 0 takes the likeliest token. It, `top_k` and `top_p` shape what is drawn
            from; no number of an answer shows them.
        top_k: draws from so many tokens; 0 for all.
        top_p: draws from the likeliest tokens that together have this probability.
        stop: texts that end an answer. They are part of it, as in transformers.
        seed: of the draws; None where nothing is drawn.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Generated:
    """One answer, token by token, in natural logarithms.

    Attributes:
        tokens: ids, with the one that ended the answer where the model has ended it.
        log_likelihoods: of these tokens.
        entropies: of the distributions that they were taken from, over the whole vocabulary.
        candidates: the likeliest tokens of each position and their log-probabilities, likeliest
            first.
    """

    tokens: tuple[int, ...]
    log_likelihoods: tuple[float, ...]
    entropies: tuple[float, ...]
    candidates: tuple[tuple[tuple[int, float], ...], ...]


def generated(
    client: Client,
    prompts: Sequence[Tokens],
    decoding: Decoding,
    *,
    n: int = 1,
    candidates: int = 0,
    end_ids: Sequence[int] = (),
) -> list[list[Generated]]:
    """Answers to each of these prompts, which are token ids.

    The numbers are of what the model says where it may choose any token. For the first
    `min_new_tokens` tokens it may not choose `end_ids`, and the numbers are of what it says under
    that condition, as in transformers and lm-polygraph.

    Args:
        n: answers to each prompt.
        candidates: how many tokens to name at each position.
        end_ids: tokens that end an answer; wanted with `min_new_tokens`.

    Raises:
        ValueError: the server's numbers are not exact.
        ServerError, UnavailableError: as `Client.score`.
    """
    # An end token that may not be chosen is no candidate, so that one more has to be named.
    named = candidates + len(end_ids) if candidates and decoding.min_new_tokens else candidates
    body = _completion_body(client, prompts, decoding, n, named)
    choices = client.post("/v1/completions", body)["choices"]
    found = [_generated(choice) for choice in sorted(choices, key=lambda one: one["index"])]
    given = [prompt for prompt in prompts for _ in range(n)]
    if decoding.min_new_tokens:
        found = _without_ends(client, given, found, decoding.min_new_tokens, end_ids)
    found = [replace(one, candidates=_first(one.candidates, candidates)) for one in found]
    return [found[start : start + n] for start in range(0, len(found), n)]


def continuation_logprobs(
    client: Client, prompts: Sequence[Tokens], tokens: Sequence[int], end_ids: Sequence[int] = ()
) -> list[float]:
    """Log-probability that a token comes next, after each prompt.

    Args:
        tokens: the token that is asked about, one for each prompt.
        end_ids: tokens that may not come next; the others have their probability.

    Raises:
        ServerError, UnavailableError: as `Client.score`.
    """
    asked = [
        {"prompt": list(prompt), "completions": [[token], *([end] for end in end_ids)]}
        for prompt, token in zip(prompts, tokens, strict=True)
    ]
    width = 1 + len(end_ids)
    found = [_number(one.logprob) for one in client.score(items=asked, mode="stats", metrics=[])]
    rows = [found[start : start + width] for start in range(0, len(found), width)]
    return [row[0] - _log_rest(row[1:]) for row in rows]


def forced_log_likelihoods(
    client: Client, prompts: Sequence[Tokens], answers: Sequence[Tokens]
) -> list[list[float]]:
    """Log-probabilities of given answers' tokens after given prompts.

    A token with nothing before it has NaN.

    Raises:
        ServerError, UnavailableError: as `Client.score`.
    """
    items = [
        {"prompt": list(prompt), "completion": list(answer)}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    scored = client.score(items=items, mode="per_token", metrics=[])
    return [
        [math.nan if token.logprob is None else token.logprob for token in one.tokens or ()]
        for one in scored
    ]


def forced_distributions(
    client: Client, prompt: Tokens, answer: Tokens, vocabulary: int
) -> NDArray[np.float32]:
    """Log-probabilities of the whole vocabulary at each token of an answer, (tokens, vocabulary).

    This is `vocabulary` candidates a token in JSON, some 100 bytes each. The server has to be
    started with --max-logprobs -1.

    Raises:
        ServerError, UnavailableError: as `Client.score`.
    """
    step = max(1, MAX_ENTRIES // (vocabulary + 1))
    items = [
        {"prompt": [*prompt, *answer[:start]], "completion": list(answer[start : start + step])}
        for start in range(0, len(answer), step)
    ]
    scored = client.score(
        items=items, mode="per_token", metrics=[], top_logprobs=vocabulary, batch_size=1
    )
    return np.concatenate([_distributions(one, vocabulary) for one in scored])


def without_tokens(logprobs: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float32]:
    """Distributions under the condition that none of these tokens is chosen.

    Args:
        logprobs: float32 of shape (positions, vocabulary), nats.
    """
    banned = list(tokens)
    rest = np.array([_log_rest(row) for row in logprobs[:, banned].tolist()], np.float32)
    found = logprobs - rest[:, None]
    found[:, banned] = -np.inf
    return found


def _completion_body(
    client: Client, prompts: Sequence[Tokens], decoding: Decoding, n: int, candidates: int
) -> dict[str, Any]:
    body = {
        "model": client.served_model().name,
        "prompt": [list(prompt) for prompt in prompts],
        "n": n,
        "max_tokens": decoding.max_new_tokens,
        "min_tokens": decoding.min_new_tokens,
        "temperature": decoding.temperature,
        "top_k": decoding.top_k,
        "top_p": decoding.top_p,
        # What the model's own generation_config.json may say of these counts for nothing here.
        **{"min_p": 0.0, "repetition_penalty": 1.0},
        "logprobs": candidates,
        # Tokens that read the same are told apart by their ids alone.
        **{"return_token_ids": True, "return_tokens_as_token_ids": True},
        "confidence": {"mode": "per_token", "metrics": [_ENTROPY]},
    }
    if decoding.stop:
        body |= {"stop": list(decoding.stop), "include_stop_str_in_output": True}
    if decoding.seed is not None:
        body["seed"] = decoding.seed
    return body


def _generated(choice: Json) -> Generated:
    logprobs = choice["logprobs"]
    if choice["token_ids"] and not logprobs["uncertainty"][_ENTROPY]["exact"]:
        raise ValueError(
            "the server's entropies are not of the whole vocabulary: it was started with "
            "--token-statistics topk, or a plugin stands in for conf-server"
        )
    return Generated(
        tokens=tuple(choice["token_ids"]),
        log_likelihoods=tuple(map(_number, logprobs["token_logprobs"])),
        entropies=tuple(_number(one[_ENTROPY]) for one in logprobs["token_uncertainty"]),
        candidates=tuple(map(_candidates, logprobs["top_logprobs"])),
    )


def _candidates(found: Mapping[str, float | None] | None) -> tuple[tuple[int, float], ...]:
    named = [
        (int(name.removeprefix(_TOKEN)), _number(logprob))
        for name, logprob in (found or {}).items()
    ]
    return tuple(sorted(named, key=lambda one: -one[1]))


def _first(
    candidates: tuple[tuple[tuple[int, float], ...], ...], count: int
) -> tuple[tuple[tuple[int, float], ...], ...]:
    return tuple(row[:count] for row in candidates)


def _without_ends(
    client: Client,
    prompts: Sequence[Tokens],
    found: Sequence[Generated],
    length: int,
    end_ids: Sequence[int],
) -> list[Generated]:
    """The numbers of the first `length` tokens, under the condition that none of them is an end."""
    wanted = [
        [(*prompt, *one.tokens[:position]) for position in range(min(length, len(one.tokens)))]
        for prompt, one in zip(prompts, found, strict=True)
    ]
    contexts = list(dict.fromkeys(context for row in wanted for context in row))
    if not end_ids or not contexts:
        return list(found)
    items = [
        {"prompt": list(context), "completions": [[end] for end in end_ids]} for context in contexts
    ]
    flat = [_number(one.logprob) for one in client.score(items=items, mode="stats", metrics=[])]
    width = len(end_ids)
    ends = {context: flat[n * width : (n + 1) * width] for n, context in enumerate(contexts)}
    return [
        conditioned(one, [ends[context] for context in row], end_ids)
        for one, row in zip(found, wanted, strict=True)
    ]


def conditioned(
    answer: Generated, ends: Sequence[Sequence[float]], end_ids: Sequence[int]
) -> Generated:
    """The numbers of an answer's first tokens under the condition that they are no end tokens.

    With P the probability of the end tokens, the others have p / (1 - P), and the entropy of
    these is (H + sum over ends of p log p) / (1 - P) + log(1 - P).

    Args:
        ends: for each of the first tokens, the log-probabilities of `end_ids` there.
    """
    logprobs, entropies = list(answer.log_likelihoods), list(answer.entropies)
    candidates = list(answer.candidates)
    for position, row in enumerate(ends):
        rest = _log_rest(row)
        logprobs[position] -= rest
        theirs = sum(math.exp(one) * one for one in row if math.isfinite(one))
        entropies[position] = (entropies[position] + theirs) / math.exp(rest) + rest
        candidates[position] = tuple(
            (token, logprob - rest)
            for token, logprob in candidates[position]
            if token not in end_ids
        )
    return replace(
        answer,
        log_likelihoods=tuple(logprobs),
        entropies=tuple(entropies),
        candidates=tuple(candidates),
    )


def _log_rest(logprobs: Sequence[float]) -> float:
    """Log of the probability that none of these tokens has; NaN where float32 cannot tell it."""
    theirs = math.fsum(map(math.exp, logprobs))
    return math.log1p(-theirs) if theirs < 1 - LEAST_REST else math.nan


def _number(logprob: float | None) -> float:
    """A number of the server's. Null stands for one that JSON cannot hold: minus infinity."""
    return -math.inf if logprob is None else logprob


def _distributions(scored: Scored, vocabulary: int) -> NDArray[np.float32]:
    found = np.full((scored.num_tokens, vocabulary), -np.inf, np.float32)
    for row, token in zip(found, scored.tokens or (), strict=True):
        for candidate in token.top_logprobs:
            row[candidate.token_id] = _number(candidate.logprob)
    return found
