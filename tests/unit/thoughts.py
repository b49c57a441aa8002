"""Answers of POST /v1/think/chat/completions, as its contract has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def trace(
    index: int, answer: str | None, confidence: float = 10.0, **fields: Any
) -> dict[str, Any]:
    """A trace of the same confidence by every measure, unless `fields` say otherwise."""
    return {
        **{"index": index, "phase": "final", "status": "finished", "answer": answer},
        **{"num_tokens": 100, "min_conf": confidence, "mean_conf": confidence},
        **{"tail_conf": confidence, "bottom_window_conf": confidence},
        **{"certainty": confidence, "voted": answer is not None},
        **fields,
    }


def thought(
    traces: Sequence[Mapping[str, Any]],
    votes: Mapping[str, str | None],
    **fields: Any,
) -> dict[str, Any]:
    """An answer whose first vote decides.

    Args:
        votes: the answer by each way of voting.
        fields: of `think`, in place of what follows from the traces.
    """
    members: dict[str, list[Mapping[str, Any]]] = {}
    for one in traces:
        if one["voted"]:
            members.setdefault(one["answer"], []).append(one)
    groups = [
        {
            **{"answer": answer, "votes": len(found), "weight": sum_of(found)},
            "traces": [one["index"] for one in found],
        }
        for answer, found in members.items()
    ]
    answer = next(iter(votes.values()))
    think = {
        **{"answer": answer, "stopped_by": "budget", "threshold": None, "groups": groups},
        "votes": {
            name: {
                **{"answer": given, "num_votes": len(members.get(given or "", ()))},
                "confidence": None,
            }
            for name, given in votes.items()
        },
        "traces": list(traces),
        "usage": {"warmup_tokens": 0, "final_tokens": sum(one["num_tokens"] for one in traces)},
        "warnings": [],
        **fields,
    }
    message = {"role": "assistant", "content": f"So it is {answer}."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        **{"id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000},
        **{"model": "m", "choices": [choice], "usage": {"prompt_tokens": 9}, "think": think},
    }


def sum_of(found: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(one["min_conf"] or 0.0 for one in found))
