"""A stock vLLM server with the old plugin's stats mode patched into it, to compare with.

This is not the plugin, but it does what made the plugin expensive. The engine is asked for 20
candidates a token, vLLM turns each into an object with its decoded text, and only then a replaced
`_create_chat_logprobs` adds them up and drops them. In a stream, each chunk summarises its own
tokens, which is the cheapest thing that such a patch can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.entrypoints.launchers.api_server.entry import main
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionLogProbs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.logprobs import Logprob

from conf_server.stats.confidence import confidence_summary


def _summarise(
    self: OpenAIServingChat,
    token_ids: Sequence[int],
    top_logprobs: Sequence[Mapping[int, Logprob] | None],
    *args: Any,
    **kwargs: Any,
) -> ChatCompletionLogProbs:
    confidences = [_confidence(step) for step in top_logprobs if step]
    extra: Any = {"confidence_summary": confidence_summary(confidences)}
    return ChatCompletionLogProbs(content=[], **extra)


def _confidence(step: Mapping[int, Logprob]) -> float:
    return -sum(candidate.logprob for candidate in step.values()) / len(step)


if __name__ == "__main__":
    OpenAIServingChat._create_chat_logprobs = _summarise  # type: ignore[method-assign]
    main()
