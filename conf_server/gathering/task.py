"""An inquiry, checked and made ready before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from conf_server.backends.base import (
    Ask,
    Backend,
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    Framing,
    Limits,
    Prompt,
    Rendered,
)
from conf_server.backends.paired import Side
from conf_server.gathering.inquiry import Inquiry
from conf_server.gathering.plan import Plan
from conf_server.heads.uncertainty_head import UncertaintyHead
from conf_server.judges.base import Judge
from conf_server.refusal import RefusalError
from conf_server.settings import ConfidenceSettings
from conf_server.uncertainty.fitted import Fitted
from conf_server.uncertainty.needs import READING, Asks, Need

_INSTRUCTIONS: Final = frozenset({"system", "developer"})
"""Roles whose messages are no part of the question."""


@dataclass(frozen=True)
class Task:
    """An inquiry whose work can begin.

    Attributes:
        needs: of all chosen methods together.
        methods: their names.
        sides: who is asked for a need that takes a text to be read; the engine for others.
        fitted: what a fit has learned; None without one.
        ask: as in `Inquiry`, with the length that the answers may have.
        framing: how questions of ours are put to the model.
        question: what the answer answers, as text; empty where nothing quotes it.
        relevance_question: what stands before texts that are compared with and without a token;
            None where they are compared alone, or by a judge that shows the question itself.
        answer, samples: texts given by the client; None and empty where there are none.
        given: these, ready to be forced.
        prompt_ids: the prompt as the model reads it; None where it holds more than text, and where
            nobody asks.
        n_samples: how many samples, and repeated answers, the methods get.
        judge: None where nobody has to compare texts.
        rauq_alpha: as in `Inquiry`.
        head: the trained one; None without one.
        top_k: candidates that a token's confidence is the mean of.
        statistics: the engine computes exact token statistics.
    """

    needs: frozenset[Need]
    methods: frozenset[str]
    sides: Mapping[Need, Side]
    fitted: Fitted | None
    ask: Ask
    framing: Framing
    question: str
    relevance_question: str | None
    answer: str | None
    samples: tuple[str, ...]
    given: tuple[ForcingJob, ...]
    prompt_ids: tuple[int, ...] | None
    n_samples: int
    judge: Judge | None
    max_judged_characters: int
    rauq_alpha: float | None
    head: UncertaintyHead | None
    top_k: int
    statistics: bool
    vocab_size: int
    caller: Caller


async def prepare(
    inquiry: Inquiry,
    plan: Plan,
    backend: Backend,
    judges: Mapping[str, Judge],
    settings: ConfidenceSettings,
    *,
    fitted: Fitted | None = None,
    head: UncertaintyHead | None = None,
    check: bool = False,
) -> Task:
    """Check an inquiry, and render what has to be rendered.

    Args:
        fitted: what a fit has learned.
        head: the trained one.
        check: also refuse what the model would refuse when the answers are generated.

    Raises:
        RefusalError: naming the field; the model has seen nothing yet.
    """
    _check_samples(inquiry, plan, settings)
    limits = backend.limits()
    ask = replace(inquiry.ask, n=max(plan.n_samples, 1))
    _check_ids(ask.prompt, limits.vocab_size)
    rendered = None
    quotes = bool(plan.asks & (Asks.QUOTES | Asks.JUDGE)) or Need.VERBALIZED_2S in plan.needs
    if quotes or inquiry.answer is not None or plan.asks & READING:
        rendered = await backend.check(ask, inquiry.caller)
    given = await _given(inquiry, rendered, backend, limits)
    _check_given(given, settings)
    sized = replace(ask, max_tokens=_length(inquiry, plan, settings, given, limits.max_len))
    if check and (rendered is None or sized != ask):
        await backend.check(sized, inquiry.caller)
    judge = judges[plan.similarity] if plan.similarity else None
    asked = question(ask.prompt, rendered, backend) if quotes and rendered else ""
    alone = inquiry.relevance == "answer_only" or judge is None or judge.asks_model
    return Task(
        needs=plan.needs,
        methods=frozenset(method.name for method in plan.methods),
        sides=plan.sides,
        fitted=fitted,
        ask=sized,
        framing=Framing.of(ask.prompt),
        question=asked,
        relevance_question=None if alone else asked,
        answer=_text(inquiry.answer, backend) if inquiry.answer is not None else None,
        samples=tuple(_text(sample, backend) for sample in inquiry.samples),
        given=given,
        prompt_ids=None
        if rendered is None or rendered.token_ids is None
        else tuple(rendered.token_ids),
        n_samples=plan.n_samples,
        judge=judge,
        max_judged_characters=settings.max_judged_characters,
        rauq_alpha=inquiry.rauq_alpha,
        head=head,
        top_k=settings.top_k,
        statistics=limits.statistics is None,
        vocab_size=limits.vocab_size,
        caller=inquiry.caller,
    )


def question(prompt: Prompt, rendered: Rendered, backend: Backend) -> str:
    """What the answer answers: the prompt, a user's only message, or all of the conversation.

    The text is that of the renderer, so that a prompt of ours quotes what the model was asked.
    """
    if not isinstance(prompt, Chat):
        content = prompt.content
        return content if isinstance(content, str) else backend.text_of(content)
    turns = [turn for turn in rendered.turns if turn.role not in _INSTRUCTIONS]
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in turns)


def _text(completion: Completion, backend: Backend) -> str:
    content = completion.content
    return content if isinstance(content, str) else backend.text_of(content)


async def _given(
    inquiry: Inquiry, rendered: Rendered | None, backend: Backend, limits: Limits
) -> tuple[ForcingJob, ...]:
    """The client's answer and samples, ready to be forced after the prompt."""
    if inquiry.answer is None:
        return ()
    if limits.forcing is not None:
        raise RefusalError("answer", f"{limits.forcing}.")
    tokens = None
    prompt = inquiry.ask.prompt
    if isinstance(prompt, Chat):
        if rendered is None or rendered.token_ids is None:
            raise RefusalError("messages", "only text can be scored.")
        tokens = tuple(rendered.token_ids)
    elif inquiry.ask.options.get("truncate_prompt_tokens") is not None:
        raise RefusalError("truncate_prompt_tokens", "it has no place beside an `answer`.")
    item = ForcingItem(
        context=prompt,
        completions=(inquiry.answer, *inquiry.samples),
        path="",
        paths=("answer", *(f"samples.{i}" for i in range(len(inquiry.samples)))),
        rendered=tokens,
    )
    return tuple(await backend.prepare([item]))


def _num_tokens(given: tuple[ForcingJob, ...]) -> int:
    return sum(job.num_scored for job in given)


def _check_given(given: tuple[ForcingJob, ...], settings: ConfidenceSettings) -> None:
    tokens = _num_tokens(given)
    if tokens > settings.max_uncertainty_tokens:
        field = "samples" if len(given) > 1 else "answer"
        raise RefusalError(
            field,
            f"{tokens} tokens with the answer's, at most "
            f"{settings.max_uncertainty_tokens} (--max-uncertainty-tokens).",
        )


def _check_samples(inquiry: Inquiry, plan: Plan, settings: ConfidenceSettings) -> None:
    limit = settings.max_uncertainty_samples
    count = len(inquiry.samples) or plan.n_samples
    if count > limit:
        field = "samples" if inquiry.samples else "uncertainty.n_samples"
        raise RefusalError(field, f"{count}, at most {limit} (--max-uncertainty-samples).", count)


def _check_ids(prompt: Prompt, vocabulary: int) -> None:
    """A prompt of token ids is decoded for the questions that are asked about it."""
    if isinstance(prompt, Chat) or isinstance(prompt.content, str) or not prompt.content:
        return
    largest = max(prompt.content)
    if largest >= vocabulary:
        raise RefusalError(
            "prompt", f"token id {largest} is outside the vocabulary of {vocabulary}."
        )


def _length(
    inquiry: Inquiry,
    plan: Plan,
    settings: ConfidenceSettings,
    given: tuple[ForcingJob, ...],
    max_len: int,
) -> int | None:
    """How long an answer may be. Where the client does not say, the answers share what those
    that were given have left of the server's limit."""
    drawn = plan.n_samples if Asks.SAMPLES in plan.asks and not inquiry.samples else 0
    answers = (inquiry.answer is None) + drawn
    limit, used = settings.max_uncertainty_tokens, _num_tokens(given)
    share = (limit - used) // max(answers, 1)
    tokens = inquiry.ask.max_tokens
    if answers and max(tokens or 0, 1) > share:
        field = inquiry.length_field or "uncertainty.n_samples"
        beside = f" and {used} given ones" if used else ""
        raise RefusalError(
            field,
            f"{answers} answers of {max(tokens or 0, 1)} tokens{beside} are more than "
            f"{limit} (--max-uncertainty-tokens).",
            tokens,
        )
    if tokens is not None:
        return tokens
    longest = max_len - 1
    if isinstance(inquiry.ask.prompt, Chat) and share >= longest:
        # A chat's default is all the room; vLLM 0.31 refuses a number that leaves none
        # for the prompt.
        return None
    return max(1, min(share, longest))
