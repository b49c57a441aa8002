"""The engine's client: vLLM's AsyncLLM with our output processor."""

from vllm.v1.engine.async_llm import AsyncLLM

from conf_server.engine.adoption import adopt
from conf_server.engine.client.output_processor import ConfidenceOutputProcessor


class ConfidenceAsyncLLM(AsyncLLM):
    """An AsyncLLM in which marked requests receive their log-probabilities as arrays."""

    def _run_output_handler(self) -> None:
        # AsyncLLM calls this at the end of __init__. The handler that it starts keeps a
        # reference to self.output_processor, so the attribute must be replaced before.
        if not isinstance(self.output_processor, ConfidenceOutputProcessor):
            self.output_processor = adopt(ConfidenceOutputProcessor, self.output_processor)
        super()._run_output_handler()
