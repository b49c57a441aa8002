"""What a model can be asked, as plain data, and who answers it.

Estimates are gathered by asking a `Backend`: the engine of this server (`served`), or made-up
answers (`dummy`). Nothing here knows HTTP, and nothing here knows vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    ForcedText,
    WantedRows,
    WantedStates,
)
from conf_server.stats.trace import TraceRows


@dataclass(frozen=True)
class Chat:
    """A conversation that the model's chat template turns into a prompt.

    Attributes:
        messages: as in OpenAI's chat completions.
        template: in place of the model's own; None for the model's own.
        template_kwargs: further arguments of the template.
        add_generation_prompt: whether the prompt ends where a new answer begins.
        continue_final_message: whether the last message is left open, to be gone on with.
    """

    messages: tuple[Mapping[str, Any], ...]
    template: str | None = None
    template_kwargs: Mapping[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


@dataclass(frozen=True)
class Plain:
    """A prompt without a chat template.

    Attributes:
        content: text or token ids; empty for a text that stands on its own.
        add_special_tokens: whether a text gets the tokenizer's special tokens (BOS).
    """

    content: str | tuple[int, ...]
    add_special_tokens: bool = True


Prompt = Chat | Plain


@dataclass(frozen=True)
class Turn:
    """One message of a conversation, as the model's renderer has read it.

    Attributes:
        text: its parts of text, joined as the renderer joins them.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Rendered:
    """A prompt as the model gets it.

    Attributes:
        token_ids: None where it holds more than text.
        turns: of a chat; empty for a plain prompt.
    """

    token_ids: list[int] | None
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Caller:
    """The request that a backend works for.

    Attributes:
        request_id: prefix of the ids of all work in the engine, and of its traces.
        model: served model or adapter; None for the model itself.
        cache_salt: keeps the request's prefix cache to itself.
        priority: lower is earlier, where the engine schedules by priority.
        headers: of the client's request, by lower-case names: tracing and routing read them.
        origin: id of the client's request that this is a part of; empty where it is no part.
    """

    request_id: str
    model: str | None = None
    cache_salt: str | None = None
    priority: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    def at(self, stage: str) -> Caller:
        """The same caller; its work is named after a stage."""
        origin = self.origin or self.request_id
        return replace(self, request_id=f"{self.request_id}-{stage}", origin=origin)


@dataclass(frozen=True)
class Ask:
    """A prompt, and how it is to be answered.

    Attributes:
        n: how many answers.
        temperature: 0 for the greedy answer.
        max_tokens: of each answer; None for all the room that is left.
        options: further sampling parameters by OpenAI's and vLLM's names.
    """

    prompt: Prompt
    n: int = 1
    temperature: float = 0.0
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: what a client sees of it.
        finish_reason: as in OpenAI's API.
        rows: one row for each of its tokens, hidden reasoning and the end token included.
        scored: False for a text of a client's whose rows nobody wanted.
    """

    text: str
    finish_reason: str | None
    rows: TraceRows
    scored: bool = True


@dataclass(frozen=True)
class Answers:
    """The answers to one `Ask`.

    Attributes:
        model: the name under which the model has answered.
        prompt_tokens, completion_tokens: that it worked on.
        masked: the log-probabilities are of what a grammar allowed, not of what the model thinks.
    """

    answers: tuple[Answer, ...]
    model: str
    prompt_tokens: int
    completion_tokens: int
    masked: bool = False


@dataclass(frozen=True)
class Completion:
    """A text that somebody else wrote.

    Attributes:
        content: text or token ids.
        finished: the model's end token belongs to it.
    """

    content: str | tuple[int, ...]
    finished: bool = False


@dataclass(frozen=True)
class ForcingItem:
    """A context and the completions that are to be scored after it.

    Attributes:
        path: of the context's fields in the client's request, for error messages.
        paths: of the completions.
        rendered: the context's tokens, where they are known already.
        completions: without any, the context is a text on its own: one job of `prepare`.
    """

    context: Prompt
    completions: tuple[Completion, ...]
    path: str
    paths: tuple[str, ...]
    rendered: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ForcingJob:
    """One completion, ready to be forced.

    Attributes:
        text: tokens and the border between context and completion.
        group: number of the context that it shares with others.
        path: the field it came from, for error messages.
        finished: its last token is the model's end token.
    """

    text: ForcedText
    group: int
    path: str
    finished: bool = False

    @property
    def num_scored(self) -> int:
        """Tokens of the completion."""
        return len(self.text.token_ids) - self.text.num_context


@dataclass(frozen=True)
class LabelQuestion:
    """A prompt whose next token is one of a few labels.

    Attributes:
        labels: their texts; a label's first token tells it apart.
    """

    prompt: Prompt
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Framing:
    """How a question of ours is put to the model: as the client's own prompt was.

    Attributes:
        is_chat: as a user's message.
        template, template_kwargs: as in `Chat`.
    """

    is_chat: bool
    template: str | None = None
    template_kwargs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, prompt: Prompt) -> Framing:
        """The framing of a client's prompt."""
        if isinstance(prompt, Chat):
            return cls(True, prompt.template, prompt.template_kwargs)
        return cls(False)

    def prompt(self, text: str, before: Sequence[Mapping[str, Any]] = ()) -> Prompt:
        """A question as a prompt; `before` are messages that stand before it in a chat."""
        if not self.is_chat:
            return Plain(text)
        message = {"role": "user", "content": text}
        return Chat((*before, message), self.template, self.template_kwargs)

    def question(self, text: str, labels: Sequence[str]) -> LabelQuestion:
        """A question that is answered by a label. In a chat no blank stands before it."""
        if self.is_chat:
            labels = [label.strip() for label in labels]
        return LabelQuestion(self.prompt(text), tuple(labels))


@dataclass(frozen=True)
class Limits:
    """What a backend can do, and up to where.

    Attributes:
        max_len: tokens of prompt and answer together.
        vocab_size: V.
        candidates: most of the likeliest tokens that a row can name.
        has_chat_template: a question can be put as a user's message.
        statistics: why there are no exact token statistics; None where there are.
        forcing: why no text can be forced; None where it can.
        states: why there are no hidden states; None where there are.
        num_layers: decoder layers of the model; hidden states are numbered from 0 to this.
        hidden_size: of one hidden state; 0 where there are none.
        num_heads: of attention in a layer; 0 where there are no weights.
        attention: where there are hidden states, for each decoder layer why there are no attention
            weights; None where there are.
        adapters: names of `Caller.model` that stand for another model than the one itself.
    """

    max_len: int
    vocab_size: int
    candidates: int
    has_chat_template: bool
    statistics: str | None = None
    forcing: str | None = None
    states: str | None = "this backend gives no hidden states"
    num_layers: int = 0
    hidden_size: int = 0
    num_heads: int = 0
    attention: tuple[str | None, ...] = ()
    adapters: frozenset[str] = frozenset()


class ForcingBackend(Protocol):
    """Who reads texts that somebody else wrote.

    Every method raises `RefusalError` for what cannot be asked, and `TooLongError` for what
    does not fit the model. Cancelling the caller ends the work.
    """

    def limits(self) -> Limits:
        """What can be asked."""
        ...

    async def prepare(self, items: Iterable[ForcingItem]) -> list[ForcingJob]:
        """Render, tokenize and check texts, before any work is done."""
        ...

    async def force(
        self, jobs: Sequence[ForcingJob], wanted: WantedRows, caller: Caller
    ) -> list[ForcedRows]:
        """Teacher forcing: rows of texts that somebody else wrote, in their order."""
        ...

    async def states(
        self, jobs: Sequence[ForcingJob], wanted: WantedStates, caller: Caller
    ) -> list[ForcedStates]:
        """Hidden states, and attention weights, of texts that somebody else wrote, in their order.

        Texts of which no token counts are refused; see `WantedStates.completion_only`.
        """
        ...

    async def labels(
        self,
        questions: Iterable[Callable[[], LabelQuestion]],
        caller: Caller,
        advance: Callable[[], None] = lambda: None,
    ) -> list[ForcedLabels]:
        """What the model thinks of each question's labels as its next word.

        Args:
            questions: functions that make them, called when their turn comes.
            advance: called as each question is done.
        """
        ...


class Backend(ForcingBackend, Protocol):
    """Who answers, and reads."""

    async def check(self, ask: Ask, caller: Caller) -> Rendered:
        """The prompt as it is read. Refuses what `generate` would refuse, before any work."""
        ...

    async def generate(self, ask: Ask, wanted: WantedRows, caller: Caller) -> Answers:
        """Answer a prompt."""
        ...

    def decode(self, rows: Sequence[Sequence[int]], context: Sequence[int] = ()) -> list[list[str]]:
        """Texts of token ids, one by one; the first of a row is the sequence's own token."""
        ...

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Text of a sequence, without special tokens."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether a token is hidden in an answer's text."""
        ...
