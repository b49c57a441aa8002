"""`conf-server check`: engine first, then transformers, then the verdict."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final, TextIO

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server.check.compare import compare
from conf_server.check.options import CheckOptions, parse_options
from conf_server.check.report import Line, Report, WorstToken
from conf_server.check.texts import TextsError, texts_of, tokenized
from conf_server.check.tolerance import tolerance_for
from conf_server.settings import ConfidenceSettings, SettingsError

TOP_K: Final = 20
"""Candidates compared at each token: what OpenAI's API can ask for at most."""

CONTEXT_TOKENS: Final = 5
"""Shown before the worst token."""


def main(arguments: Sequence[str]) -> int:
    """0 within the tolerance, 1 past it, 2 for bad usage."""
    options, others = parse_options(arguments)
    try:
        with result_alone() as stdout:
            report = check(options, engine_flags(others))
            text = json.dumps(report.as_json()) if options.json else report.table()
            print(text, file=stdout)
    except (SettingsError, TextsError) as error:
        print(f"conf-server check: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0 if report.ok else 1


@contextmanager
def result_alone() -> Iterator[TextIO]:
    """Standard output for the result; what else is printed, by any process, goes to stderr.

    vLLM logs to stdout, and so do processes that it starts.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            open(kept, "w", encoding="utf-8", closefd=False) as stdout,
            redirect_stdout(sys.stderr),
        ):
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def engine_flags(arguments: list[str]) -> Namespace:
    """The engine's arguments, with the defaults and refusals of the server.

    Raises:
        SettingsError: naming the flag.
    """
    from conf_server.cli import check_flags, parse_args

    args = parse_args(arguments)
    check_flags(args, ConfidenceSettings(top_k=TOP_K), os.environ)
    if args.headless:
        raise SettingsError("--headless: the engine has to run here to be checked")
    return args


def check(options: CheckOptions, args: Namespace) -> Report:
    """Run the engine, stop it, run transformers: the two may not fit into memory together.

    Raises:
        SettingsError: what was asked for does not go together with the model.
        TextsError: the user's file of texts cannot be used.
    """
    from conf_server.check.reference import Reference, load_tokenizer, require_model

    extra = texts_of(options.texts) if options.texts else {}
    hub = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
    tokenizer = load_tokenizer(args.tokenizer or args.model, hub)
    path, hub = (options.reference, {}) if options.reference else (args.model, hub)
    require_model(path, hub)
    numerics, readings = asyncio.run(read_engine(options, args, tokenizer, extra))
    reference = Reference(path, options.reference_device, hub)
    return Report(
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
        lines=compared(readings, reference, tokenizer),
    )


async def read_engine(
    options: CheckOptions, args: Namespace, tokenizer: Any, extra: Mapping[str, str]
) -> tuple[Any, list[Any]]:
    """The engine as the server would start it: its `EngineNumerics` and its `Reading`s.

    Raises:
        SettingsError: the model is too short for the texts, or generates none.
    """
    from conf_server.engine.readings import KINDS, EngineNumerics, EngineReader
    from conf_server.engine.token_statistics_support import install_token_statistics
    from conf_server.launcher import Shutdown, engine_client

    signal.signal(signal.SIGTERM, _stop)
    async with engine_client(args, {}, Shutdown()) as engine:
        numerics = await EngineNumerics.of(engine)
        if not numerics.generates:
            raise SettingsError(f"--model {args.model}: it generates no text")
        statistics = await install_token_statistics(engine, args)
        limit = numerics.max_model_len - options.new_tokens
        if limit < 2:
            raise SettingsError("--max-model-len: no room for a text and --new-tokens")
        texts = tokenized(tokenizer, extra, limit, numerics.block_size, options.new_tokens)
        with tqdm(total=len(KINDS) * len(texts), desc="engine", unit="reading") as bar:
            reader = EngineReader(
                engine, numerics.block_size, TOP_K, options.new_tokens, bar.update, statistics
            )
            return numerics, await reader.read(texts)


def _stop(*_: object) -> None:
    """SIGTERM as an exception, so that the engine's processes are stopped on the way out."""
    raise SystemExit(128 + signal.SIGTERM)


def compared(readings: Sequence[Any], reference: Any, tokenizer: Any) -> list[Line]:
    """One line a reading that has rows, in the order of the readings."""
    lines = []
    # From the back: a text's generated sequences hold its prompt, and the reference, which
    # remembers the last sequence it has seen, then need not compute the prompt again.
    for reading in tqdm(reversed(readings), "transformers", len(readings), unit="reading"):
        rows = reference.rows(reading)
        difference = compare(reading.rows, rows, reading.sampled)
        if difference is not None:
            worst = worst_token(reading, rows, difference.worst, tokenizer)
            lines.append(Line(reading.text, reading.kind, difference, worst))
    return lines[::-1]


def worst_token(reading: Any, rows: Any, index: int, tokenizer: Any) -> WorstToken:
    """What stands at row `index`, for people."""
    position = reading.first + index
    before = reading.token_ids[max(0, position - CONTEXT_TOKENS) : position]
    return WorstToken(
        position=position,
        context=tokenizer.decode(before),
        token=tokenizer.decode([reading.token_ids[position]]),
        logprob=float(reading.rows.logprobs[index]),
        reference=float(rows.logprobs[index]),
    )
