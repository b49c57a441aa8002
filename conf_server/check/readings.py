"""What a running engine reports for texts, in every way in which it computes rows.

Attention, compilation and caching take different roads for a whole prompt, for what
follows a prefix-cache hit, for one new token, and for one new token of many requests.
Each can be wrong alone, so each is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.engine.client.teacher_forcing import teacher_force
from conf_server.engine.marks import SamplesMark, set_mark
from conf_server.stats.forced import ForcedText, WantedRows
from conf_server.stats.trace import TraceRows

Kind = Literal["prompt", "cached", "generated", "batched"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Reading:
    """Rows of one text.

    Attributes:
        text: the text's name.
        kind: prompt (teacher-forced, nothing cached), cached (teacher-forced behind a
            prefix-cache hit), generated (greedy, alone) or batched (greedy, all texts at once).
        token_ids: the sequence that the rows belong to, from its first token on.
        rows: one row for each of the sequence's last tokens.
    """

    text: str
    kind: Kind
    token_ids: list[int]
    rows: TraceRows

    @property
    def first(self) -> int:
        """Position in `token_ids` of the first row's token."""
        return len(self.token_ids) - len(self.rows)

    @property
    def sampled(self) -> bool:
        """Whether the rows' tokens are the engine's own greedy choice."""
        return self.kind in ("generated", "batched")


@dataclass(frozen=True)
class EngineNumerics:
    """What the engine computes with.

    Attributes:
        dtype: of activations, without torch's prefix: float32, bfloat16, float16.
        quantization: vLLM's name of the weights' format; None for weights in `dtype`.
        max_model_len: longest sequence, in tokens.
        block_size: tokens in a block of the prefix cache.
        generates: whether the model generates text at all.
    """

    dtype: str
    quantization: str | None
    max_model_len: int
    block_size: int
    generates: bool

    @classmethod
    async def of(cls, engine: EngineClient) -> EngineNumerics:
        config = engine.vllm_config
        model = config.model_config
        return cls(
            dtype=str(model.dtype).removeprefix("torch."),
            quantization=model.quantization,
            max_model_len=model.max_model_len,
            block_size=config.cache_config.block_size,
            generates="generate" in await engine.get_supported_tasks(),
        )


class EngineReader:
    """Reads texts from one engine.

    Every kind of every text has a cache salt of its own: no reading finds another's work in
    the prefix cache, and only `cached` looks for its own.
    """

    def __init__(
        self,
        engine: EngineClient,
        block_size: int,
        width: int,
        new_tokens: int,
        advance: Callable[[], object],
        statistics: bool,
    ) -> None:
        """
        Args:
            block_size: tokens in a block of the prefix cache.
            width: candidates of each row.
            new_tokens: how many to generate for each text.
            advance: called `len(KINDS)` times for each text.
            statistics: the workers compute token statistics, and rows are read with them.
        """
        self._engine = engine
        self._width = width
        self._statistics = statistics
        self._new_tokens = new_tokens
        self._advance = advance
        self._block_size = block_size

    async def read(self, texts: Mapping[str, list[int]]) -> list[Reading]:
        """Every kind of every text that has one: by text, and by kind in the order of `KINDS`."""
        alone = {name: await self._read_alone(name, ids) for name, ids in texts.items()}
        batch = (self._generated(name, ids, "batched") for name, ids in texts.items())
        together = await asyncio.gather(*map(self._counted, batch))
        return [
            reading
            for readings, batched in zip(alone.values(), together, strict=True)
            for reading in (*readings, batched)
            if reading is not None
        ]

    async def _read_alone(self, name: str, ids: list[int]) -> list[Reading | None]:
        return [
            await self._counted(self._prompt(name, ids)),
            await self._counted(self._cached(name, ids)),
            await self._counted(self._generated(name, ids, "generated")),
        ]

    async def _counted(self, work: Awaitable[Reading | None]) -> Reading | None:
        reading = await work
        self._advance()
        return reading

    async def _prompt(self, name: str, ids: list[int]) -> Reading | None:
        """None: a text of one token, which nothing stands before."""
        if len(ids) < 2:
            return None
        forced = await self._force(ForcedText(ids, 0), f"{name}-prompt", f"prompt-{name}")
        return Reading(name, "prompt", ids, forced.rows)

    async def _cached(self, name: str, ids: list[int]) -> Reading | None:
        """None: a text shorter than a block, or an engine without a prefix cache."""
        blocks = (len(ids) - 2) // self._block_size
        if blocks < 1:
            return None
        # One token more than the blocks: the first row is computed from the context's last
        # token, which therefore must not be cached. Half of a long text is left to compare.
        context = max(blocks // 2, 1) * self._block_size + 1
        salt = f"cached-{name}"
        await self._force(ForcedText(ids[:context], context - 1), f"{name}-context", salt)
        forced = await self._force(ForcedText(ids, context), f"{name}-cached", salt)
        return Reading(name, "cached", ids, forced.rows) if forced.num_cached else None

    async def _force(self, text: ForcedText, request_id: str, salt: str) -> Any:
        return await teacher_force(
            self._engine,
            text,
            WantedRows(self._width, self._width, self._statistics),
            f"conf-server-check-{request_id}",
            cache_salt=salt,
        )

    async def _generated(self, name: str, ids: list[int], kind: Kind) -> Reading:
        params = SamplingParams(
            max_tokens=self._new_tokens,
            temperature=0.0,
            ignore_eos=True,
            logprobs=self._width,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        set_mark(params, SamplesMark(self._width if self._statistics else 0, deferred=True))
        prompt = tokens_input(ids, cache_salt=f"{kind}-{name}")
        request_id = f"conf-server-check-{name}-{kind}"
        async with aclosing(self._engine.generate(prompt, params, request_id)) as results:
            async for result in results:
                final: Any = result
        (output,) = final.outputs
        if output.finish_reason != "length":
            raise GenerationError(f"Generation ended with {output.finish_reason!r}.")
        return Reading(name, kind, [*ids, *output.token_ids], output.logprobs.trace.all())
