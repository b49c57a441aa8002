"""Plays a client of the plugin of PETS (github.com/ZDCSlab/PETS): one request a question.

It knows nothing of conf-server. Its server is started as `vllm serve` with `LAUNCHER`; it waits for
/v1/models, asks each question once for all of its samples, and reads what the server says of each.
"""

from __future__ import annotations

import json
import math
import urllib.request
from typing import Any, Final

import openai

LAUNCHER: Final = {
    "VLLM_PLUGINS": "confidence_logprobs",
    "VLLM_CONF_MODE": "stats",
    "VLLM_CONF_TOPK": "20",
    "VLLM_FLAT_LOGPROBS": "1",
}
"""The environment that the launcher of PETS sets."""

KEYS: Final = (
    "mean_confidence",
    "tail_2048_mean_conf",
    "min_sliding_2048_mean_conf",
    "bottom_0.1_sliding_2048_mean_conf",
    "bottom_0.5_sliding_2048_mean_conf",
)


def question(model: str, n: int, **more: Any) -> dict[str, Any]:
    """The body of a request."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is 2 + 2? Answer with the number alone."},
    ]
    body = {"model": model, "messages": messages, "n": n, "temperature": 0.6, "top_p": 0.95}
    return {**body, "logprobs": True, "top_logprobs": 20, **more}


def asked_with_openai(client: openai.OpenAI, n: int) -> list[dict[str, float]]:
    """The summary of each sample, read by the stock client."""
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(**question(model, n), timeout=None)
    found = []
    for choice in answer.choices:
        assert isinstance(choice.message.content, str)
        assert choice.finish_reason in ("stop", "length")
        summary: Any = getattr(choice.logprobs, "confidence_summary", None)
        found.append(read(summary))
    assert len(found) == n
    return found


def asked_plainly(url: str, api_key: str, n: int) -> list[dict[str, float]]:
    """The same with nothing but the standard library."""
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    (model, *_) = fetched(f"{url}/v1/models", headers)["data"]
    body = json.dumps(question(model["id"], n)).encode()
    choices = fetched(f"{url}/v1/chat/completions", headers, body)["choices"]
    assert [choice["index"] for choice in choices] == list(range(n))
    return [read(choice["logprobs"]["confidence_summary"]) for choice in choices]


def fetched(url: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=300) as answer:
        return json.load(answer)


def read(summary: Any) -> dict[str, float]:
    """What the client keeps of a summary: five numbers."""
    assert isinstance(summary, dict)
    assert tuple(summary) == KEYS
    assert all(isinstance(value, float) and math.isfinite(value) for value in summary.values())
    return summary
