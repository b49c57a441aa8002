"""/v1/score: teacher-forced scoring of any text on the engine that serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import Request

from conf_server.backends.base import ForcingJob
from conf_server.refusal import RefusalError
from conf_server.serving.confidence import (
    Confidence,
    ConfidenceOptions,
    by_token,
    finite,
    finite_all,
)
from conf_server.serving.forcing_handler import ServingForced, not_here
from conf_server.serving.fragments import utf8
from conf_server.serving.logprobs_encoder import Columns, EncodedTokens
from conf_server.serving.score_protocol import (
    ScoredCandidate,
    ScoredToken,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
)
from conf_server.serving.token_decoding import Decode
from conf_server.stats.columns import TokenStatistic
from conf_server.stats.forced import ForcedRows, ForcedText, WantedRows
from conf_server.stats.metrics import METRICS, TOP_K_METRICS
from conf_server.stats.sequence import mean_logprob, perplexity, sum_logprob
from conf_server.stats.split_characters import CONTEXT_TOKENS
from conf_server.stats.trace import TraceRows


class ServingScore(ServingForced):
    """Handler of POST /v1/score."""

    async def create_score(
        self, request: ScoreRequest, raw_request: Request | None = None
    ) -> ScoreResponse:
        """Validate every item, then score them all.

        Raises:
            RefusalError: naming the field; the engine has seen nothing yet.
        """
        model = await self._host.model_name(request)
        if obstacle := self._backend.limits().forcing:
            raise not_here(obstacle)
        confidence = self._confidence(request)
        request.check_count(self.settings.max_score_items)
        jobs = await self._backend.prepare(
            item.forcing_item(path) for path, item in request.each_item()
        )
        self._check_entries(jobs, confidence, request)
        self._host.check_room(len(jobs))
        caller = self._caller("score", request, raw_request)
        wanted = WantedRows(
            top_k=confidence.top_k,
            candidates=request.top_logprobs if confidence.mode == "per_token" else 0,
            statistics=confidence.engine_statistics,
            ranks=confidence.mode in ("per_token", "summary"),
        )
        forced = await self._backend.force(jobs, wanted, caller)
        results = []
        for index, (job, rows) in enumerate(zip(jobs, forced, strict=True)):
            results.append(self._result(index, job.text, rows, confidence, request))
            await asyncio.sleep(0)  # a thousand results are a lot of work: others have their turn
        return ScoreResponse(
            id=caller.request_id,
            object="score",
            created=int(time.time()),
            model=model,
            data=results,
            usage=self._usage(jobs, sum(one.num_cached for one in forced)),
        )

    def _confidence(self, request: ScoreRequest) -> Confidence:
        limits = self._backend.limits()
        limit = limits.candidates
        if request.top_logprobs > limit:
            message = f"at most {limit} (--max-logprobs)."
            raise RefusalError("top_logprobs", message, request.top_logprobs)
        resolved = Confidence.resolve(
            request.confidence, self.settings, limits.candidates, limits.vocab_size
        )
        options = request.confidence or ConfidenceOptions()
        available = METRICS if resolved.engine_statistics else TOP_K_METRICS
        named = request.metrics if options.metrics is None else options.metrics
        return replace(
            resolved,
            mode=request.mode or options.mode or "stats",
            metrics=available if named is None else tuple(dict.fromkeys(named)),
        )

    def _check_entries(
        self, jobs: Sequence[ForcingJob], confidence: Confidence, request: ScoreRequest
    ) -> None:
        if confidence.mode not in ("per_token", "summary"):
            return
        tokens = sum(job.num_scored for job in jobs)
        shown = request.top_logprobs if confidence.mode == "per_token" else 0
        limit = self.settings.max_score_entries
        if tokens * (1 + shown) > limit:
            raise RefusalError(
                "top_logprobs" if shown else "mode",
                f"{tokens} tokens with {shown} candidates each are {tokens * (1 + shown)} entries, "
                f"at most {limit} a response (--max-score-entries).",
            )

    def _result(
        self,
        index: int,
        text: ForcedText,
        forced: ForcedRows,
        confidence: Confidence,
        request: ScoreRequest,
    ) -> ScoreResult:
        rows = forced.rows
        fields: dict[str, Any] = {}
        if confidence.mode != "empty":
            fields["confidence_summary"] = confidence.summary(rows)
            fields["uncertainty"] = confidence.uncertainty(rows)
        if confidence.mode in ("per_token", "summary"):
            fields["entropy_exact"] = rows.statistics is not None
            fields["tokens"] = self._tokens(text, rows, confidence, request)
        return ScoreResult(
            index=index,
            num_tokens=len(text.token_ids) - text.num_context,
            logprob=finite(sum_logprob(rows.logprobs)),
            mean_logprob=finite(mean_logprob(rows.logprobs)),
            perplexity=finite(perplexity(rows.logprobs)),
            is_greedy=_is_greedy(rows),
            **fields,
        )

    def _tokens(
        self, text: ForcedText, rows: TraceRows, confidence: Confidence, request: ScoreRequest
    ) -> list[ScoredToken]:
        """The completion's tokens; those that nothing stood before come first, without numbers."""
        columns: Columns = {
            "rank": rows.ranks,
            "confidence": confidence.confidences(rows),
            "entropy": confidence.entropies(rows),
        }
        metrics = confidence.token_metrics(rows) if request.names_metrics else {}
        shown = request.top_logprobs if confidence.mode == "per_token" else 0
        decode = self._backend.decode
        splices = request.splices
        if splices is None:
            return _tokens(text, rows, shown, columns, metrics, decode)
        vocabulary = splices.encoder.vocabulary(decode)
        first_row = len(text.token_ids) - len(rows)
        unscored = text.token_ids[text.num_context : first_row]
        context = text.token_ids[: text.num_context]
        tokens = EncodedTokens(vocabulary, rows, lambda: context[-CONTEXT_TOKENS:], unscored)
        name = splices.hold('[{"token":"*"}]', tokens.score(shown, columns, metrics))
        return [ScoredToken.model_construct(token=name)]


def _is_greedy(rows: TraceRows) -> bool | None:
    """Whether every token was as likely as the likeliest; None where none was scored."""
    if not len(rows):
        return None
    if rows.statistics is not None:
        likeliest = rows.statistics[:, TokenStatistic.LOGPROB_1ST]
    else:
        likeliest = rows.candidate_logprobs[:, 0]
    return bool(np.all(rows.logprobs >= likeliest))


def _tokens(
    text: ForcedText,
    rows: TraceRows,
    shown: int,
    columns: Columns,
    metrics: Columns,
    decode: Decode,
) -> list[ScoredToken]:
    candidate_ids = rows.candidate_ids[:, :shown].tolist()
    own_ids = text.token_ids[text.num_context :]
    unscored = len(own_ids) - len(rows)
    ids = [[own] for own in own_ids[:unscored]]
    ids += [[own, *others] for own, others in zip(own_ids[unscored:], candidate_ids, strict=True)]
    texts = decode(ids, text.token_ids[: text.num_context])
    lists: dict[str, list[Any]] = {
        name: finite_all(values) for name, values in {"logprob": rows.logprobs, **columns}.items()
    }
    if metrics:
        lists["uncertainty"] = by_token(metrics)
    candidate_logprobs = rows.candidate_logprobs[:, :shown].tolist()
    nothing: list[Any] = [None] * unscored
    return [
        _token(row_ids, row_texts, logprobs, dict(zip(lists, numbers, strict=True)))
        for row_ids, row_texts, logprobs, numbers in zip(
            ids,
            texts,
            [[]] * unscored + candidate_logprobs,
            zip(*(nothing + numbers for numbers in lists.values()), strict=True),
            strict=True,
        )
    ]


def _token(
    ids: list[int], texts: list[str], candidate_logprobs: list[float], numbers: dict[str, Any]
) -> ScoredToken:
    """A token and its candidates; `ids` and `texts` are the token's own first."""
    return ScoredToken(
        token=texts[0],
        token_id=ids[0],
        bytes=utf8(texts[0]),
        top_logprobs=[
            ScoredCandidate(token=token, token_id=i, bytes=utf8(token), logprob=finite(logprob))
            for i, token, logprob in zip(ids[1:], texts[1:], candidate_logprobs, strict=True)
        ],
        **numbers,
    )
