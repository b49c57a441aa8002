"""What a running engine says about texts, in every way in which it computes rows.

An engine runs different code for a whole prompt, for what follows a hit in its prefix cache, for
the next token of one request, and for the next tokens of many. Each can be wrong alone, so each
is read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from vllm.engine.protocol import EngineClient
from vllm.exceptions import GenerationError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from conf_server.concurrency import together
from conf_server.engine.client.teacher_forcing import teacher_force
from conf_server.engine.marks import SamplesMark, set_mark
from conf_server.stats.forced import ForcedText, WantedRows
from conf_server.stats.trace import TraceRows

Kind = Literal["prompt", "cached", "generated", "batched"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class Reading:
    """The rows that the engine has given for one text, computed in one way.

    Attributes:
        text: the text's name.
        kind: how they were computed: `prompt` (teacher-forced, with nothing in the cache),
            `cached` (teacher-forced after a hit in the prefix cache), `generated` (greedy, one
            text at a time) or `batched` (greedy, all texts at once).
        token_ids: the whole sequence that the rows belong to.
        rows: one row for each of the sequence's last tokens.
    """

    text: str
    kind: Kind
    token_ids: list[int]
    rows: TraceRows

    @property
    def first(self) -> int:
        """The position in `token_ids` of the first row's token."""
        return len(self.token_ids) - len(self.rows)

    @property
    def sampled(self) -> bool:
        """Whether the rows' tokens are the engine's own greedy choice."""
        return self.kind in ("generated", "batched")


@dataclass(frozen=True)
class EngineNumerics:
    """What the engine computes with.

    Attributes:
        dtype: the type of activations without torch's prefix: float32, bfloat16 or float16.
        quantization: vLLM's name of the weights' format; None for weights in `dtype`.
        max_model_len: the longest sequence that it takes, in tokens.
        block_size: how many tokens a block of the prefix cache holds.
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
    """Reads texts with one engine.

    Every kind of every text has a cache salt of its own, so that no reading finds another's work
    in the prefix cache. Only `cached` uses its salt twice.
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
            block_size: how many tokens a block of the prefix cache holds.
            width: how many candidates each row has.
            new_tokens: how many tokens to generate for each text.
            advance: called `len(KINDS)` times for each text, to show progress.
            statistics: whether the workers compute token statistics, and rows have them.
        """
        self._engine = engine
        self._width = width
        self._statistics = statistics
        self._new_tokens = new_tokens
        self._advance = advance
        self._block_size = block_size

    async def read(self, texts: Mapping[str, list[int]]) -> list[Reading]:
        """All readings that have rows, ordered by text and then by kind as in `KINDS`."""
        alone = {name: await self._read_alone(name, ids) for name, ids in texts.items()}
        batch = (self._generated(name, ids, "batched") for name, ids in texts.items())
        batched = await together(*map(self._counted, batch))
        return [
            reading
            for readings, last in zip(alone.values(), batched, strict=True)
            for reading in (*readings, last)
            if reading is not None
        ]

    async def _read_alone(self, name: str, ids: list[int]) -> list[Reading | None]:
        return [
            await self._counted(self._prompt(name, ids)),
            await self._counted(self._cached(name, ids)),
            await self._counted(self._generated(name, ids, "generated")),
        ]

    async def _counted(self, work: Coroutine[Any, Any, Reading | None]) -> Reading | None:
        reading = await work
        self._advance()
        return reading

    async def _prompt(self, name: str, ids: list[int]) -> Reading | None:
        """None for a text of one token, because nothing stands before it."""
        if len(ids) < 2:
            return None
        forced = await self._force(ForcedText(ids, 0), f"{name}-prompt", f"prompt-{name}")
        return Reading(name, "prompt", ids, forced.rows)

    async def _cached(self, name: str, ids: list[int]) -> Reading | None:
        """None for a text that is shorter than a block, and where nothing was cached."""
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
