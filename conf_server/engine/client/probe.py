"""Asking the engine whether it still answers."""

from contextlib import aclosing

from vllm.engine.protocol import EngineClient
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams


async def generates(engine: EngineClient) -> None:
    """Generate one token. A pooling model, which generates none, is only asked for its health.

    Raises:
        EngineDeadError: the engine has ended.
    """
    await engine.check_health()
    if "generate" not in await engine.get_supported_tasks():
        return
    params = SamplingParams(
        max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )
    async with aclosing(engine.generate(tokens_input([0]), params, "conf-server-probe")) as results:
        async for _ in results:
            pass
