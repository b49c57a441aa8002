"""Whether an engine would take and answer a request now, without asking it."""

from __future__ import annotations

from typing import Any


def obstacle(engine: Any, max_silence_s: float) -> str | None:
    """Why the engine should not get another request now; None where it should.

    Args:
        engine: a client of vLLM's. Of one that is not ours nothing is known of its silence.
        max_silence_s: how long the engine may have requests and say nothing.
    """
    if engine.errored:
        return "the engine is dead"
    silence = getattr(engine, "silence_s", 0.0)
    if silence > max_silence_s:
        return f"the engine has requests, and has said nothing for {silence:.0f} s"
    scheduler = engine.vllm_config.scheduler_config
    most_requests, most_tokens = scheduler.max_num_queued_reqs, scheduler.max_num_queued_tokens
    if most_requests is not None and _num_requests(engine) >= most_requests:
        return "the queue is full (--max-num-queued-reqs)"
    if most_tokens is not None and engine.get_num_queued_tokens() >= most_tokens:
        return "the queue is full (--max-num-queued-tokens)"
    return None


def _num_requests(engine: Any) -> int:
    """Of all API processes together, as vLLM counts them where there are several."""
    count: int
    if engine.admission_stats is not None:
        count = engine.admission_stats.get_num_requests()
    else:
        count = engine.get_num_unfinished_requests()
    return count
