"""The engine in vLLM's sleep mode, as whoever takes turns with it sees it."""

from __future__ import annotations

from vllm.v1.engine.async_llm import AsyncLLM


class EngineSleeper:
    """Puts the one engine to sleep and wakes it up. It is a `scorer.turns.Sleeper`."""

    def __init__(self, engine: AsyncLLM, level: int = 1) -> None:
        """
        Args:
            level: vLLM's. 1 gives the memory back; 0 only stops, which a CPU can do, too.
        """
        self._engine = engine
        self._level = level

    async def sleep(self) -> None:
        """Let the requests that have begun end and keep those that come, then give back the GPU.

        Weights go to the machine's memory. The cache of keys and values is dropped, and with it
        the prefix cache.
        """
        await self._engine.sleep(level=self._level, mode="wait")

    async def wake_up(self) -> None:
        """Take the memory again, and go on with what has come meanwhile."""
        await self._engine.wake_up()

    def is_asked(self) -> bool:
        """Whether a request runs or waits."""
        return self._engine.get_num_unfinished_requests() > 0
