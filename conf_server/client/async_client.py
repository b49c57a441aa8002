"""A client of one server that is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from conf_server.client.calls import (
    Call,
    Part,
    any_object,
    chat_call,
    encoded,
    hidden_states_call,
    object_of,
    score_call,
    think_call,
    uncertainty_call,
)
from conf_server.client.chat_answer import Chat, chat_of
from conf_server.client.connection import AsyncConnection, ConnectionOptions
from conf_server.client.fields import BATCH_SIZE, Completion, Messages, Prompt
from conf_server.client.hidden import HiddenStates
from conf_server.client.progress import Progress, reporting
from conf_server.client.results import Results
from conf_server.client.retries import OnRetry
from conf_server.client.scored import Scored
from conf_server.client.served_model import MODELS, ServedModel, served_model_of
from conf_server.client.server_error import ServerError
from conf_server.client.stream_events import event_of
from conf_server.client.thought import Thought
from conf_server.client.tokens import Json
from conf_server.client.uncertain import Methods, Uncertainty, methods_of
from conf_server.concurrency import together

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: all that it does, in coroutines of the same names."""

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 600.0,
        retries: int = 5,
        concurrency: int = 8,
        on_retry: OnRetry | None = None,
    ) -> None:
        """As `Client`."""
        self._connection = AsyncConnection(
            ConnectionOptions(base_url, api_key, timeout, retries, concurrency, on_retry)
        )
        self._name = model
        self._model: ServedModel | None = None
        self._looking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connection.aclose()

    @overload
    async def score(
        self,
        *,
        completion: Completion,
        prompt: Prompt | None = None,
        messages: Messages | None = None,
        **options: Any,
    ) -> Scored: ...

    @overload
    async def score(
        self,
        *,
        completions: Sequence[Completion],
        prompt: Prompt | None = None,
        messages: Messages | None = None,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Scored]: ...

    @overload
    async def score(
        self,
        *,
        items: Sequence[Mapping[str, Any]],
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Scored]: ...

    async def score(
        self, *, batch_size: int = BATCH_SIZE, progress: Progress = None, **fields: Any
    ) -> Scored | Results[Scored]:
        """As `Client.score`."""
        return await self._done(score_call(fields, batch_size), progress)

    @overload
    async def uncertainty(
        self, *, messages: Messages, methods: Sequence[str] | None = None, **options: Any
    ) -> Uncertainty: ...

    @overload
    async def uncertainty(
        self,
        *,
        prompt: str | Sequence[int],
        methods: Sequence[str] | None = None,
        **options: Any,
    ) -> Uncertainty: ...

    @overload
    async def uncertainty(
        self,
        *,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        methods: Sequence[str] | None = None,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Uncertainty]: ...

    @overload
    async def uncertainty(
        self,
        *,
        items: Sequence[Mapping[str, Any]],
        methods: Sequence[str] | None = None,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Uncertainty]: ...

    async def uncertainty(
        self, *, progress: Progress = None, **fields: Any
    ) -> Uncertainty | Results[Uncertainty]:
        """As `Client.uncertainty`."""
        return await self._done(uncertainty_call(fields), progress)

    async def methods(self) -> Methods:
        """As `Client.methods`."""
        return methods_of(await self.get("/v1/uncertainty/methods"))

    async def chat(self, *, messages: Messages, **options: Any) -> Chat:
        """As `Client.chat`."""
        return await self._done(chat_call({"messages": messages, **options}), None)

    @overload
    async def think(self, *, messages: Messages, **options: Any) -> Thought: ...

    @overload
    async def think(
        self, *, items: Sequence[Mapping[str, Any]], progress: Progress = None, **options: Any
    ) -> Results[Thought]: ...

    async def think(
        self, *, progress: Progress = None, **fields: Any
    ) -> Thought | Results[Thought]:
        """As `Client.think`."""
        return await self._done(think_call(fields), progress)

    async def stream_chat(self, *, messages: Messages, **options: Any) -> AsyncIterator[Chat]:
        """As `Client.stream_chat`."""
        path = "/v1/chat/completions"
        body = await self._with_model({"messages": messages, **options, "stream": True})
        async with self._connection.lines("POST", path, encoded(body)) as lines:
            async for line in lines:
                event = event_of(line, self._connection.url_of(path))
                if event is not None:
                    yield chat_of(event)

    async def hidden_states(
        self, *, batch_size: int = BATCH_SIZE, progress: Progress = None, **fields: Any
    ) -> HiddenStates | Results[HiddenStates]:
        """As `Client.hidden_states`."""
        call = hidden_states_call(fields, batch_size)
        return await self._done(call, progress)

    async def served_model(self) -> ServedModel:
        """As `Client.served_model`."""
        async with self._looking:
            if self._model is None:
                body = await self._connection.ask("GET", MODELS, None)
                self._model = served_model_of(body, self._name, self._connection.url_of(MODELS))
        return self._model

    async def get(self, path: str) -> Json:
        """As `Client.get`."""
        return any_object(
            await self._connection.ask("GET", path, None), self._connection.url_of(path)
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """As `Client.post`."""
        return any_object(
            await self._connection.ask("POST", path, encoded(body)), self._connection.url_of(path)
        )

    async def _with_model(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if body.get("model") is not None:
            return body
        return {**body, "model": self._name or (await self.served_model()).name}

    async def _done(self, call: Call[T], progress: Progress) -> T:
        with reporting(progress, sum(part.texts for part in call.parts)) as report:
            answers = await together(*(self._answer(call, part, report) for part in call.parts))
        return call.result(answers)

    async def _answer(self, call: Call[T], part: Part, report: Callable[[int], None]) -> Json:
        try:
            payload = encoded(await self._with_model(part.body))
            body = await self._connection.ask("POST", call.path, payload)
            answer = object_of(body, call.kind, self._connection.url_of(call.path))
        except ServerError as error:
            if len(call.parts) > 1:
                error.add_note(part.place)
            raise
        report(part.texts)
        return answer
