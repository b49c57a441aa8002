"""The engine client: vLLM's AsyncLLM with our output processor."""

from vllm.v1.engine.async_llm import AsyncLLM

from conf_server.engine.adoption import adopt
from conf_server.engine.client.output_processor import ConfidenceOutputProcessor


class ConfidenceAsyncLLM(AsyncLLM):
    """AsyncLLM whose traced requests receive their log-probabilities as arrays."""

    def _run_output_handler(self) -> None:
        # The handler's closure captures self.output_processor when it starts, and
        # AsyncLLM starts it at the end of __init__: this is the last moment to swap.
        if not isinstance(self.output_processor, ConfidenceOutputProcessor):
            self.output_processor = adopt(ConfidenceOutputProcessor, self.output_processor)
        super()._run_output_handler()
