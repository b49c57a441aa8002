"""Teacher forcing: the log-probabilities that the engine gives to a text it did not write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.outputs import RequestOutput

from conf_server.engine.client.forced_run import force
from conf_server.engine.client.stock_logprobs import append_stock_rows
from conf_server.engine.marks import PromptMark
from conf_server.stats.forced import ForcedLabels, ForcedRows, ForcedText, WantedRows
from conf_server.stats.trace import TokenTrace, TraceRows


async def teacher_force(
    engine: EngineClient,
    text: ForcedText,
    wanted: WantedRows,
    request_id: str,
    **options: Any,
) -> ForcedRows:
    """Compute the rows of a text's completion in one prefill.

    The context may come from the prefix cache. The completion must not, because the engine
    has no rows for tokens that it does not compute. Our scheduler therefore ends a cache hit
    where the completion begins. Another scheduler may let it go on; the text then runs a
    second time without the cache. If the caller is cancelled, the request is aborted.

    Args:
        options: as for `force`.

    Raises:
        GenerationError: the engine failed, or gave no rows for what it computed.
    """
    mark = _mark(text, wanted)
    width = None if wanted.statistics else wanted.width
    result = await force(
        engine, text.token_ids, mark, request_id, True, prompt_logprobs=width, **options
    )
    rows = _rows(result, text, wanted)
    if rows is None:
        run_id = f"{request_id}-uncached"
        result = await force(
            engine, text.token_ids, mark, run_id, False, prompt_logprobs=width, **options
        )
        rows = _rows(result, text, wanted)
    if rows is None:
        raise GenerationError("The engine gave no log-probabilities for a scoring request.")
    return ForcedRows(rows, result.num_cached_tokens or 0)


async def force_labels(
    engine: EngineClient,
    context: list[int],
    labels: Sequence[int],
    statistics: bool,
    request_id: str,
    **options: Any,
) -> ForcedLabels:
    """Compute the log-probability of each of several tokens right after a context.

    Args:
        context: the tokens before; there must be some.
        labels: the tokens, of which there must be one at least.
        statistics: whether the workers make the rows. They can then name all labels in the
            row of the first one. If not, every label is forced in a run of its own.
        options: as for `teacher_force`.

    Raises:
        GenerationError: as `teacher_force`.
    """
    if statistics:
        text = ForcedText([*context, labels[0]], len(context))
        wanted = WantedRows(1, 0, statistics=True, token_ids=tuple(labels))
        forced = await teacher_force(engine, text, wanted, request_id, **options)
        return ForcedLabels(
            forced.rows.candidate_logprobs[0], len(text.token_ids), forced.num_cached
        )
    wanted = WantedRows(1, 0, statistics=False)
    texts = [ForcedText([*context, label], len(context)) for label in labels]
    runs = [
        await teacher_force(engine, text, wanted, f"{request_id}-{number}", **options)
        for number, text in enumerate(texts)
    ]
    return ForcedLabels(
        np.array([run.rows.logprobs[0] for run in runs]),
        sum(len(text.token_ids) for text in texts),
        sum(run.num_cached for run in runs),
    )


def _mark(text: ForcedText, wanted: WantedRows) -> PromptMark:
    if not wanted.statistics:
        return PromptMark(first=text.first_scored)
    return PromptMark(
        statistics_top_k=wanted.top_k,
        first=text.first_scored,
        candidates=wanted.candidates,
        token_ids=wanted.token_ids,
        ranks=wanted.ranks,
    )


def _rows(result: RequestOutput, text: ForcedText, wanted: WantedRows) -> TraceRows | None:
    """The completion's rows, or None where some of them are missing.

    The row of the token at position p is computed at position p-1. If a cache hit covers that
    position, vLLM's row is missing (V2 runner) or not initialised (V1), so rows are counted
    from the end. A request that was preempted may have lost rows although `num_cached_tokens`
    promises them, so the tokens are compared as well.
    """
    needed = len(text.token_ids) - text.first_scored
    given: Any = result.prompt_logprobs
    if (result.num_cached_tokens or 0) > text.first_scored - 1 or len(given) < needed:
        return None
    if isinstance(given, TokenTrace):
        trace = given
    else:
        trace = TokenTrace(wanted.width)
        if needed:
            append_stock_rows(trace, text.token_ids[-needed:], given[-needed:])
    rows = trace.rows(len(trace) - needed, len(trace))
    scored = text.token_ids[text.first_scored :]
    return rows if rows.token_ids.tolist() == scored else None
