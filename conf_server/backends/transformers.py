"""A model that Hugging Face's transformers runs, as a `Backend`: torch and nothing of vLLM.

Who does what:

    transformers_options     what may be asked of loading, checked
    transformers_model       loading: device, dtype, quantization, tokenizer
    transformers_tokens      the model as `TextForcing` knows models
    transformers_batches     the one thread that runs it, and whose text is read when
    transformers_forward     a pass over a batch of texts: rows, hidden states, weights
    transformers_layers      hooks that read hidden states and attention weights
    transformers_states      what is kept of them
    transformers_sampling    sampling options, and the tokens they choose
    transformers_generation  the decoding loop
    transformers_memory      running out of memory, and going on

There is no prefix cache and no batching of several requests' answers: each request decodes its own
answers together, a token at a time, and requests take turns.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from conf_server.backends.base import (
    Answer,
    Answers,
    Ask,
    Caller,
    Chat,
    Limits,
    Rendered,
)
from conf_server.backends.forcing import ReadsTexts, TextForcing
from conf_server.backends.streaming import Piece
from conf_server.backends.template_rendering import turns
from conf_server.backends.token_texts import TokenTexts
from conf_server.backends.transformers_batches import BatchLimits, ForcedBatches, ModelThread
from conf_server.backends.transformers_forward import ForwardPasses, joined_rows
from conf_server.backends.transformers_generation import Decoding, DecodingModel
from conf_server.backends.transformers_memory import in_halves
from conf_server.backends.transformers_model import LoadedModel, load
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.backends.transformers_parking import ParkedWeights
from conf_server.backends.transformers_sampling import Sampling, checked_sampling
from conf_server.backends.transformers_tokens import TransformersTokens
from conf_server.refusal import RefusalError, TooLongError
from conf_server.settings import SettingsError
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import (
    WantedRows,
)

_BATCH_TOKENS: Final = {"cpu": 1024, "cuda": 8192}
"""What a pass may read, unless the options say so: see `TransformersOptions.max_batch_tokens`."""


class TransformersBackend(ReadsTexts):
    """Asks a model in this process. It is a `StreamingBackend`.

    Attributes:
        tokenizer: the event loop's.
    """

    def __init__(
        self, loaded: LoadedModel, passes: ForwardPasses, options: TransformersOptions
    ) -> None:
        """
        Args:
            loaded: by `transformers_model.load` with these options.
            passes: of the loaded model.

        Raises:
            SettingsError: the model cannot do what an option asks for.
        """
        self.tokenizer = loaded.tokenizer
        self._options = options
        self._loaded = loaded
        self._passes = passes
        static = options.cache == "static"
        if static and (obstacle := passes.static_cache_obstacle()):
            raise SettingsError(f"--cache: the model cannot use a static one: {obstacle}")
        self._thread = ModelThread()
        heads = passes.layers.num_heads
        batch_tokens = options.max_batch_tokens or _BATCH_TOKENS[loaded.device.type]
        limits = BatchLimits(batch_tokens, options.max_attention_bytes, heads)
        batches = ForcedBatches(
            self._thread, partial(in_halves, work=passes.forced, what="a text"), limits
        )
        self._tokens = TransformersTokens(loaded, passes.vocab_size, batches)
        self._forcing = TextForcing(
            self._tokens,
            label_tokens=batch_tokens,
            max_tokens=options.max_forced_tokens,
        )
        self._decoding = DecodingModel(
            passes,
            # The thread's own: the event loop's tokenizer may be at work at the same time.
            copy.deepcopy(loaded.tokenizer),
            loaded.end_tokens,
            static,
            batch_tokens,
        )
        self._generations = asyncio.Semaphore(options.max_generations)
        self._texts = TokenTexts(loaded.tokenizer)
        self._special = frozenset(loaded.tokenizer.all_special_ids)
        self._weights = ParkedWeights(loaded.model, loaded.device) if options.parked else None
        self._limits = self._found_limits()

    @classmethod
    def load(cls, options: TransformersOptions) -> TransformersBackend:
        """Load a model and its tokenizer; see `transformers_model.load`.

        Raises:
            SettingsError: an option that this machine or this model cannot meet.
        """
        loaded = load(options)
        return cls(loaded, ForwardPasses(loaded.model), options)

    def close(self) -> None:
        """Let the pass that runs end, and begin no other. Nothing can be asked afterwards."""
        self._thread.close()

    async def move(self, on_device: bool) -> None:
        """Bring the weights of a parked model onto its device, or take them away from it.

        Raises:
            RefusalError: the device has no room for them.
        """
        if self._weights is not None:
            await self._thread.turn(partial(self._weights.move, on_device))

    def limits(self) -> Limits:
        return self._limits

    def _found_limits(self) -> Limits:
        layers, vocabulary = self._passes.layers, self._passes.vocab_size
        most = self._options.max_logprobs
        known = layers.states is None
        return Limits(
            max_len=self._loaded.max_len,
            vocab_size=vocabulary,
            candidates=vocabulary if most == -1 else min(most, vocabulary),
            has_chat_template=bool(getattr(self.tokenizer, "chat_template", None)),
            states=layers.states,
            num_layers=layers.count,
            hidden_size=self._passes.hidden_size if known else 0,
            num_heads=layers.num_heads,
            attention=layers.attention,
        )

    # Answers.

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        ids, _ = await self._checked(ask)
        return Rendered(ids, turns(ask.prompt, "") if isinstance(ask.prompt, Chat) else ())

    async def generate(self, ask: Ask, wanted: WantedRows, caller: Caller) -> Answers:
        ids, sampling = await self._checked(ask)
        made: list[list[Piece]] = [[] for _ in range(sampling.n)]
        async with aclosing(self._pieces(ids, sampling, wanted)) as pieces:
            async for piece in pieces:
                made[piece.index].append(piece)
        answers = tuple(
            Answer(
                "".join(piece.text for piece in parts),
                parts[-1].finish_reason,
                joined_rows([piece.rows for piece in parts]),
            )
            for parts in made
        )
        return Answers(
            answers=answers,
            model=caller.model or self._options.model,
            prompt_tokens=len(ids),
            completion_tokens=sum(len(answer.rows) for answer in answers),
        )

    async def stream(
        self,
        ask: Ask,
        wanted: WantedRows,
        caller: Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        ids, sampling = await self._checked(ask)
        async with aclosing(self._pieces(ids, sampling, wanted, early_stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def _pieces(
        self,
        ids: list[int],
        sampling: Sampling,
        wanted: WantedRows,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """Answers as they are made. Each step is a turn of its own in the model's thread."""
        async with self._generations:
            decoding = Decoding(self._decoding, ids, sampling, wanted, early_stop)
            while not decoding.is_done:
                for piece in await self._thread.turn(decoding.step):
                    yield piece

    async def _checked(self, ask: Ask) -> tuple[list[int], Sampling]:
        """The prompt's tokens, and how it is to be answered.

        Raises:
            RefusalError, TooLongError: as `check`.
        """
        is_chat = isinstance(ask.prompt, Chat)
        field = "messages" if is_chat else "prompt"
        ids = await self._prompt_ids(ask, field)
        max_len = self._loaded.max_len
        room = max_len - len(ids)
        if room < 1:
            raise TooLongError(
                field,
                f"{len(ids)} tokens leave no room for an answer: the model reads at most "
                f"{max_len}.",
                len(ids),
            )
        defaults = self._loaded.sampling_defaults
        return ids, checked_sampling(ask, room, max_len, self._passes.vocab_size, defaults)

    async def _prompt_ids(self, ask: Ask, field: str) -> list[int]:
        if isinstance(ask.prompt, Chat):
            return await self._tokens.render(ask.prompt, "")
        content = ask.prompt.content
        if isinstance(content, str):
            if len(content) > self._tokens.max_chars:
                raise TooLongError(
                    field,
                    f"{len(content)} characters, more than {self._tokens.max_chars}, the most "
                    f"that {self._loaded.max_len} tokens can have.",
                    len(content),
                )
            special = ask.prompt.add_special_tokens
            content = tuple(self.tokenizer.encode(content, add_special_tokens=special))
        if not content:
            raise RefusalError(field, "there are no tokens in it.")
        for token_id in content:
            if not 0 <= token_id < self._passes.vocab_size:
                raise RefusalError(
                    field,
                    f"token id {token_id} is outside the vocabulary of {self._passes.vocab_size}.",
                )
        return list(content)

    # Tokens and their texts.

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        return self._texts.rows(rows, context)

    def text_of(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special
