"""Answers whose thinking is ended where its confidence becomes low, so that the model answers.

The engine ends such an answer as any early stop does. Then the client asks for the rest: first for
the tokens that end thinking, one by one, each of them the only one allowed, then for what follows.
What the caller sees is one answer. This needs nothing of the schedulers and model runners, whose
copies of a request's tokens would otherwise have to be changed while a step is in flight; the
prefix cache makes the further requests cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import msgspec
from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.async_utils import merge_async_iterators

from conf_server.engine.client.output_processor import SampleTrace
from conf_server.engine.marks import SamplesMark, early_stop_of, mark_of, set_mark
from conf_server.stats.early_stop import STOP_REASON, ThinkingTokens

Generate = Callable[..., AsyncGenerator[RequestOutput, None]]
"""`AsyncLLM.generate`."""

_TRANSFER: Final = "kv_transfer_params"


def thinking_tokens(vllm_config: VllmConfig) -> ThinkingTokens | None:
    """How the served model's thinking begins and ends, by vLLM's --reasoning-parser.

    --reasoning-config may put more before the tokens that are forced, as it does for vLLM's own
    `thinking_token_budget`. None without a parser, or where its end is no fixed text.
    """
    config = vllm_config.reasoning_config
    if config is None or not config.enabled or not config.reasoning_parser:
        return None
    start, end = config.reasoning_start_token_ids, config.natural_reasoning_end_token_ids
    forced = config.reasoning_end_token_ids
    if not start or not end or not forced or forced[-len(end) :] != end:
        return None
    return ThinkingTokens(tuple(start), tuple(end), tuple(forced))


def thinking_to_end(params: SamplingParams) -> ThinkingTokens | None:
    """What ends the thinking of a request's answers early; None where nothing does."""
    rule = early_stop_of(params)
    return None if rule is None else rule.thinking


async def generate_past_thinking(
    generate: Generate,
    prompt: Any,
    params: SamplingParams,
    request_id: str,
    max_model_len: int,
    options: Mapping[str, Any],
) -> AsyncGenerator[RequestOutput, None]:
    """As `generate`, of a request for which `thinking_to_end` is not None.

    Args:
        generate: makes an answer of one request to the engine.
        prompt: with token ids.
        params: whose outputs are deltas, or one at the end.
        max_model_len: tokens that a prompt and its answer may have together.
        options: of `generate`.

    Raises:
        VLLMValidationError: the prompt has no token ids.
    """
    ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
    if ids is None:
        raise VLLMValidationError("thinking can be ended in answers to a prompt of tokens alone.")
    thinking = thinking_to_end(params)
    assert thinking is not None
    # Where a grammar holds from the first token on, nothing is thought.
    masked = params.structured_outputs is not None and bool(options.get("reasoning_ended"))
    if masked or thinking.have_ended(ids):
        async with aclosing(generate(prompt, _without_rule(params), request_id, **options)) as all_:
            async for result in all_:
                yield result
        return
    parts = _Parts(generate, prompt, request_id, max_model_len, options)
    answers = [_Answer(parts, _child(params, n), thinking, n) for n in range(params.n)]
    async with aclosing(merge_async_iterators(*(one.results() for one in answers))) as results:
        async for result in _together(results, params):
            yield result


async def _together(
    results: AsyncGenerator[tuple[int, RequestOutput], None], params: SamplingParams
) -> AsyncGenerator[RequestOutput, None]:
    """The results of n answers as vLLM gives those of one request."""
    unfinished = params.n
    whole: dict[int, CompletionOutput] = {}
    async for _, result in results:
        (output,) = result.outputs
        if output.finish_reason is not None:
            unfinished -= 1
        result.finished = unfinished == 0
        if params.output_kind == RequestOutputKind.DELTA:
            yield result
            continue
        whole[output.index] = _appended(whole.get(output.index), output)
        if result.finished:
            result.outputs = [whole[index] for index in sorted(whole)]
            yield result


def _appended(so_far: CompletionOutput | None, output: CompletionOutput) -> CompletionOutput:
    if so_far is None:
        return output
    tokens = [*so_far.token_ids, *output.token_ids]
    return replace(output, text=so_far.text + output.text, token_ids=tokens)


class _Parts:
    """Requests to the engine for parts of the answers to one prompt."""

    def __init__(
        self,
        generate: Generate,
        prompt: dict[str, Any],
        request_id: str,
        max_model_len: int,
        options: Mapping[str, Any],
    ) -> None:
        self._generate = generate
        self._prompt = prompt
        self._request_id = request_id
        self._max_model_len = max_model_len
        self._options = options

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens of the prompt."""
        ids: list[int] = self._prompt["prompt_token_ids"]
        return ids

    def room(self, tokens: int) -> int:
        """How many tokens the model has room for behind so many of an answer."""
        return self._max_model_len - len(self.prompt_ids) - tokens

    def part(
        self, before: list[int], params: SamplingParams, is_rest: bool
    ) -> AsyncGenerator[RequestOutput, None]:
        """The tokens that follow those of `before`; `is_rest`: thinking has ended."""
        if not before:
            return self._generate(self._prompt, params, self._request_id, **self._options)
        options = dict(self._options)
        if is_rest and options.get("reasoning_ended") is not None:
            options["reasoning_ended"] = True  # a grammar holds from here on
        prompt = {**self._prompt, "prompt_token_ids": [*self.prompt_ids, *before]}
        return self._generate(prompt, params, self._request_id, **options)


class _Answer:
    """One answer: its thinking, the tokens that end it, and the rest."""

    def __init__(
        self, parts: _Parts, params: SamplingParams, thinking: ThinkingTokens, index: int
    ) -> None:
        self._parts = parts
        self._params = params
        self._forced: Final = thinking.forced
        self._index = index
        self._ids: list[int] = []
        self._rows: SampleTrace | None = None
        self._num_parts = 0

    async def results(self) -> AsyncGenerator[RequestOutput, None]:
        """Every output of every part, as one answer's; only the last one says that it ends."""
        first: RequestOutput | None = None
        following: SamplingParams | None = self._params
        while following is not None:
            is_rest = self._num_parts > len(self._forced)
            part = self._parts.part(list(self._ids), following, is_rest)
            following, copied = None, 0
            async with aclosing(part):
                async for result in part:
                    (output,) = result.outputs
                    copied = self._join(output, copied)
                    if output.finish_reason is not None:
                        following = self._following(output)
                    first = first or result
                    yield _of_whole(result, first)
            self._num_parts += 1

    def _join(self, output: CompletionOutput, copied: int) -> int:
        """Make a part's output one of the answer.

        Args:
            copied: rows of the part that the answer has already.

        Returns:
            How many it has now.
        """
        rows: Any = output.logprobs
        if self._rows is None:
            self._rows = SampleTrace(rows.trace.layout)
        available = len(rows.trace)
        self._rows.trace.extend(rows.trace.rows(copied, available))
        self._ids += output.token_ids
        joined: Any = self._rows
        output.logprobs = joined
        output.index = self._index
        return available

    def _following(self, output: CompletionOutput) -> SamplingParams | None:
        """What to ask for after a part that has ended with `output`; None if that was the last.

        The output then says how the answer ends, and otherwise that it goes on.
        """
        if self._num_parts == 0:
            goes_on = output.stop_reason == STOP_REASON
            if goes_on and self._rows is not None:
                self._rows.thinking_tokens = len(self._ids)
        else:
            is_forced = self._num_parts <= len(self._forced)
            goes_on = is_forced and output.finish_reason == "length"
        if goes_on and self._left() > 0:
            output.finish_reason = output.stop_reason = None
            if self._num_parts < len(self._forced):
                return _forced_params(self._params, self._forced[self._num_parts])
            return _rest_params(self._params, len(self._ids), self._left())
        if goes_on:
            output.finish_reason, output.stop_reason = "length", None
        return None

    def _left(self) -> int:
        """How many tokens the answer may still get."""
        room, most = self._parts.room(len(self._ids)), self._params.max_tokens
        return room if most is None else min(room, most - len(self._ids))


def _of_whole(result: RequestOutput, first: RequestOutput) -> RequestOutput:
    """A part's result with the prompt of the whole."""
    result.prompt, result.prompt_token_ids = first.prompt, first.prompt_token_ids
    result.num_cached_tokens = first.num_cached_tokens
    return result


def _child(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of one of n answers, as vLLM's `ParentRequest` makes them."""
    child = params.clone()
    child.n = 1
    if params.seed is not None:
        child.seed = params.seed + index
    return child


def _without_rule(params: SamplingParams) -> SamplingParams:
    mark = mark_of(params)
    assert isinstance(mark, SamplesMark)
    plain = params.clone()
    set_mark(plain, msgspec.structs.replace(mark, early_stop=None))
    return plain


def _forced_params(params: SamplingParams, token: int) -> SamplingParams:
    """Ask for this one token, whose row says what the model itself thinks of it."""
    forced = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        allowed_token_ids=[token],
        logprobs=params.logprobs,
        stop=params.stop,
        stop_token_ids=params.stop_token_ids,
        include_stop_str_in_output=params.include_stop_str_in_output,
        ignore_eos=True,
        detokenize=params.detokenize,
        skip_special_tokens=params.skip_special_tokens,
        spaces_between_special_tokens=params.spaces_between_special_tokens,
        output_kind=params.output_kind,
        extra_args=params.extra_args,
    )
    return _later(forced, params)


def _rest_params(params: SamplingParams, tokens: int, left: int) -> SamplingParams:
    """Ask for what follows so many tokens; the same for the same seed and as many tokens."""
    rest = params.clone()
    rest.max_tokens = left
    rest.min_tokens = max(0, params.min_tokens - tokens)
    rest.prompt_logprobs = None
    if params.seed is not None:
        # The engine would draw what it has drawn for the thinking once more.
        digest = hashlib.blake2b(f"{params.seed} {tokens}".encode(), digest_size=8).digest()
        rest.seed = int.from_bytes(digest) >> 1
    return _later(rest, params)


def _later(params: SamplingParams, first: SamplingParams) -> SamplingParams:
    """Parameters of a part after the first: what only the first is for is left out."""
    plain = _without_rule(first)
    given = plain.extra_args or {}
    params.extra_args = {name: value for name, value in given.items() if name != _TRANSFER}
    return params
