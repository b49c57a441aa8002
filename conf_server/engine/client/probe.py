"""Does the model answer?"""

from contextlib import aclosing

from vllm.engine.protocol import EngineClient
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams


async def generates(engine: EngineClient) -> None:
    """Generate one token; a pooling model, which cannot, is asked for its health.

    Raises:
        EngineDeadError: the engine is gone.
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
