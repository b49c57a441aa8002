"""`conf-server check`: it runs the engine, then transformers, and compares the two."""

from __future__ import annotations

import asyncio
import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.check.compare import compare
from conf_server.check.expectations import cache_excuse, missing_readings
from conf_server.check.inner_compare import inner_tolerance
from conf_server.check.options import CheckOptions, parse_options
from conf_server.check.result import CheckResult, Line, WorstToken
from conf_server.check.texts import TextsError, texts_of, tokenized
from conf_server.check.tolerance import tolerance_for
from conf_server.early_refusal import refuse_early
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.signals import ending_on_signals
from conf_server.standard_output import print_result, result_alone
from conf_server.terminal import readable, say

TOP_K: Final = 20
"""Candidates compared at each token: what OpenAI's API can ask for at most."""

CONTEXT_TOKENS: Final = 5
"""How many tokens are shown before the worst one."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0 within the tolerance, 1 past it, 2 for bad usage.

    Raises:
        SystemExit: with 130 and 143 after SIGINT and SIGTERM.
    """
    options, others = parse_options(arguments)
    try:
        with ending_on_signals(), result_alone() as stdout:
            result = check(options, engine_flags(others))
            text = json.dumps(result.as_json()) if options.json else result.table()
            print_result(readable(text), stdout)
    except (SettingsError, TextsError) as error:
        say(f"conf-server check: error: {error}")
        return 2
    return 0 if result.ok else 1


def engine_flags(arguments: list[str]) -> Namespace:
    """The engine's arguments, with the defaults and the refusals of the server.

    Raises:
        SettingsError: a flag has a value that cannot be meant. The message names it.
    """
    from conf_server.flags import check_flags, parse_args

    refuse_early(arguments, os.environ, listens=False)
    args = parse_args(arguments)
    check_flags(args, ConfidenceSettings(top_k=TOP_K), os.environ)
    if args.headless:
        raise SettingsError("--headless: the engine has to run here to be checked")
    return args


def check(options: CheckOptions, args: Namespace) -> CheckResult:
    """Run the engine, stop it, and only then run transformers.

    The two may not fit into memory together.

    Raises:
        SettingsError: what was asked for does not go together with the model.
        TextsError: the user's file of texts cannot be used.
    """
    from conf_server.check.reference import Reference
    from conf_server.check.transformers_scorer import (
        TransformersScorer,
        load_tokenizer,
        require_model,
    )

    extra = texts_of(options.texts) if options.texts else {}
    hub = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    tokenizer = load_tokenizer(args.tokenizer or args.model, hub)
    path = options.reference or args.model
    if options.reference:
        hub["revision"] = None  # It is a revision of the served model.
    require_model(path, hub)
    answers = asyncio.run(read_engine(options, args, tokenizer, extra))
    reference = Reference(TransformersScorer(path, options.reference_device, **hub))
    lines = compared(answers, reference, tokenizer)
    numerics = answers.numerics
    return CheckResult(
        model=args.model,
        reference=path,
        dtype=numerics.dtype,
        quantization=numerics.quantization,
        top_k=TOP_K,
        tolerance=tolerance_for(
            numerics.dtype,
            numerics.quantization,
            mean=options.tolerance_mean,
            max=options.tolerance_max,
            agreement=options.tolerance_agreement,
        ),
        statistics=answers.statistics,
        lines=lines,
        missing=missing_readings(
            answers.texts,
            numerics.block_size,
            answers.cache_excuse,
            {(line.text, line.kind) for line in lines},
        ),
        inner=[reference.inner(reading) for reading in tqdm(answers.inner, "layers")],
        inner_notes=answers.inner_notes,
        inner_tolerance=inner_tolerance(numerics.dtype, numerics.quantization),
    )


@dataclass(frozen=True)
class EngineAnswers:
    """What the engine has said about the texts.

    Attributes:
        numerics: what it computes with, an `EngineNumerics`.
        statistics: whether its workers compute token statistics.
        cache_excuse: why nothing need come from its prefix cache; empty where something must.
        texts: the token ids of each text, by its name.
        readings: the rows that it has given, `Reading`s.
        inner: hidden states and attention weights, `InnerReading`s.
        inner_notes: what of these could not be had, and why.
    """

    numerics: Any
    statistics: bool
    cache_excuse: str
    texts: Mapping[str, list[int]]
    readings: Sequence[Any]
    inner: Sequence[Any] = ()
    inner_notes: Sequence[str] = ()


async def read_engine(
    options: CheckOptions, args: Namespace, tokenizer: Any, extra: Mapping[str, str]
) -> EngineAnswers:
    """Start the engine as the server would, read the texts, and stop it.

    Where something goes wrong it is stopped at once.

    Raises:
        SettingsError: the model has no room for the texts, or generates no text.
    """
    from conf_server.engine.client.start import Shutdown, engine_client

    shutdown = Shutdown()
    async with engine_client(args, {}, shutdown) as engine:
        try:
            return await ask_engine(engine, options, args, tokenizer, extra)
        except BaseException:
            shutdown.forced = True
            raise


async def ask_engine(
    engine: Any,
    options: CheckOptions,
    args: Namespace,
    tokenizer: Any,
    extra: Mapping[str, str],
) -> EngineAnswers:
    """Every reading of every text.

    Raises:
        SettingsError: the model has no room for the texts, or generates no text.
    """
    from conf_server.check.readings import KINDS, EngineNumerics, EngineReader
    from conf_server.engine.exact_statistics import install_token_statistics

    numerics = await EngineNumerics.of(engine)
    if not numerics.generates:
        raise SettingsError(f"--model {args.model}: it generates no text")
    statistics = await install_token_statistics(engine, args) is None
    limit = numerics.max_model_len - options.new_tokens
    if limit < 2:
        raise SettingsError("--max-model-len: no room for a text and --new-tokens")
    block = numerics.block_size
    texts = tokenized(tokenizer, extra, limit, block, options.new_tokens)
    with tqdm(total=len(KINDS) * len(texts), desc="engine", unit="reading") as bar:
        reader = EngineReader(engine, block, TOP_K, options.new_tokens, bar.update, statistics)
        readings = await reader.read(texts)
    inner, notes = await _read_inner(engine, args, texts, block, statistics)
    excuse = cache_excuse(engine.vllm_config)
    return EngineAnswers(numerics, statistics, excuse, texts, readings, inner, notes)


async def _read_inner(
    engine: Any, args: Namespace, texts: Mapping[str, list[int]], block: int, statistics: bool
) -> tuple[Sequence[Any], Sequence[str]]:
    """Hidden states and attention weights, where the server would give them; and notes."""
    from conf_server.check.inner_readings import read_inner
    from conf_server.engine.states_support import install_hidden_states

    settings = ConfidenceSettings.from_args(args, os.environ)
    if not settings.enable_hidden_states:
        return (), ()
    obstacle = None if statistics else "this engine computes none"
    support = await install_hidden_states(engine, obstacle, settings.max_attention_bytes)
    if support.obstacle is not None:
        return (), [f"Not compared: hidden states and attention weights: {support.obstacle}."]
    refused = dict.fromkeys(filter(None, support.attention))
    notes = [f"Not compared: attention weights of some layers: {reason}." for reason in refused]
    return await read_inner(engine, texts, block, support), notes


def compared(answers: EngineAnswers, reference: Any, tokenizer: Any) -> list[Line]:
    """A line for each reading that has rows, in the order of the readings."""
    readings = answers.readings
    lines = []
    # From the back: a text's generated sequences hold its prompt, and the reference, which
    # remembers the last sequence it has seen, then need not compute the prompt again.
    for reading in tqdm(reversed(readings), "transformers", len(readings), unit="reading"):
        rows = reference.rows(reading, answers.statistics)
        difference = compare(reading.rows, rows, reading.sampled)
        if difference is not None:
            worst = worst_token(reading, rows, difference.worst, tokenizer)
            lines.append(Line(reading.text, reading.kind, difference, worst))
    return lines[::-1]


def worst_token(reading: Any, rows: Any, index: int, tokenizer: Any) -> WorstToken:
    """The token of row `index`, as people want to see it."""
    position = reading.first + index
    before = reading.token_ids[max(0, position - CONTEXT_TOKENS) : position]
    return WorstToken(
        position=position,
        context=tokenizer.decode(before),
        token=tokenizer.decode([reading.token_ids[position]]),
        logprob=float(reading.rows.logprobs[index]),
        reference=float(rows.logprobs[index]),
    )
