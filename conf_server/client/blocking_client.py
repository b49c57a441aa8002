"""A client of one server that waits for its answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
from conf_server.client.connection import Connection, ConnectionOptions
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

T = TypeVar("T")


class Client:
    """Asks one conf-server for scores, estimates of uncertainty, and answers with confidence.

    It may be used from several threads, and be closed or used as a context manager.
    """

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
        """
        Args:
            base_url: the server's address, with or without /v1.
            api_key: sent as a bearer token; None sends none.
            model: the name of the model that is asked; None asks the server, once.
            timeout: seconds that one try of a request may take; of a stream, that the next part
                of it may take.
            retries: how often a request is sent again while the server is away or busy (429,
                502, 503, 504, no connection). Delays grow from half a second to thirty, and are
                longer where the server's `Retry-After` says so.
            concurrency: most requests under way at once.
            on_retry: is told why a request will be sent again.

        Raises:
            ValueError: an argument is not what it has to be.
        """
        self._connection = Connection(
            ConnectionOptions(base_url, api_key, timeout, retries, concurrency, on_retry)
        )
        self._name = model
        self._model: ServedModel | None = None
        self._looking = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    @overload
    def score(
        self,
        *,
        completion: Completion,
        prompt: Prompt | None = None,
        messages: Messages | None = None,
        **options: Any,
    ) -> Scored: ...

    @overload
    def score(
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
    def score(
        self,
        *,
        items: Sequence[Mapping[str, Any]],
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Scored]: ...

    def score(
        self, *, batch_size: int = BATCH_SIZE, progress: Progress = None, **fields: Any
    ) -> Scored | Results[Scored]:
        """Log-probabilities of given completions after given contexts, by POST /v1/score.

        Args:
            prompt: a context as text or token ids. Or
            messages: a context as a chat.
            completion: what stands after it: a text, token ids, or an object of `text` or
                `token_ids` and `finished`. Or
            completions: several of them. Or
            items: many contexts, each a mapping of the arguments above.
            batch_size: most texts in one request: a call of more is several requests.
            progress: true for a bar, or a function of the number of texts done and of all.
            options: all other fields of the request: `mode`, `metrics`, `top_logprobs`,
                `confidence`, `add_special_tokens`, `continue_final_message`, `model`, ...

        Returns:
            One result for a `completion`, else a list, in the order of the items and of their
            completions.

        Raises:
            ServerError: the server refuses; a `param` such as `items.3.prompt` counts the items
                of its request, and a note says which these are.
            UnavailableError: it is away or busy after all retries.
        """
        return self._done(score_call(fields, batch_size), progress)

    @overload
    def uncertainty(
        self, *, messages: Messages, methods: Sequence[str] | None = None, **options: Any
    ) -> Uncertainty: ...

    @overload
    def uncertainty(
        self,
        *,
        prompt: str | Sequence[int],
        methods: Sequence[str] | None = None,
        **options: Any,
    ) -> Uncertainty: ...

    @overload
    def uncertainty(
        self,
        *,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        methods: Sequence[str] | None = None,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Uncertainty]: ...

    @overload
    def uncertainty(
        self,
        *,
        items: Sequence[Mapping[str, Any]],
        methods: Sequence[str] | None = None,
        progress: Progress = None,
        **options: Any,
    ) -> Results[Uncertainty]: ...

    def uncertainty(
        self, *, progress: Progress = None, **fields: Any
    ) -> Uncertainty | Results[Uncertainty]:
        """Answers, and how sure the model is of each, by POST /v1/uncertainty.

        Args:
            messages: a chat. Or
            prompt: a text or token ids; or a list of such, which gives a list. Or
            items: many requests, each a mapping with what is its own of all these arguments.
            methods, n_samples, similarity, relevance, backend, temperature, rauq_alpha,
                return_samples: what to estimate and from what; these stand in the object
                `uncertainty` of the request.
            progress: true for a bar, or a function of the number of answers done and of all.
            options: all other fields of the request: `answer`, `samples`, `max_tokens`, `seed`,
                `model`, ...

        Raises:
            ServerError, UnavailableError: as `score`.
        """
        return self._done(uncertainty_call(fields), progress)

    def methods(self) -> Methods:
        """What the server can estimate, by GET /v1/uncertainty/methods."""
        return methods_of(self.get("/v1/uncertainty/methods"))

    def chat(self, *, messages: Messages, **options: Any) -> Chat:
        """Answer a chat, by POST /v1/chat/completions.

        Args:
            options: all other fields of the request: `confidence`, `max_tokens`, `n`, ...

        Raises:
            ServerError, UnavailableError: as `score`.
        """
        return self._done(chat_call({"messages": messages, **options}), None)

    @overload
    def think(self, *, messages: Messages, **options: Any) -> Thought: ...

    @overload
    def think(
        self, *, items: Sequence[Mapping[str, Any]], progress: Progress = None, **options: Any
    ) -> Results[Thought]: ...

    def think(self, *, progress: Progress = None, **fields: Any) -> Thought | Results[Thought]:
        """Think many times about a chat and vote, by POST /v1/think/chat/completions.

        Args:
            messages: a chat. Or
            items: many requests, each a mapping with what is its own of all these arguments.
            budget, concurrency, calibrate, warmup, keep_top, below, window, consensus, vote,
                min_voters, answer, max_total_tokens, traces: these stand in the object `think` of
                the request. Its `top_k` goes there by `think={"top_k": 20}`: `top_k` alone is
                that of sampling.
            progress: true for a bar, or a function of the number of answers done and of all.
            options: all other fields of the request: `max_tokens`, `temperature`, `seed`, ...

        Raises:
            ServerError, UnavailableError: as `score`. `timeout` is that of all traces together.
        """
        return self._done(think_call(fields), progress)

    def stream_chat(self, *, messages: Messages, **options: Any) -> Iterator[Chat]:
        """As `chat`, in chunks as they come. The summary of an answer is in its last one.

        Raises:
            ServerError, UnavailableError: as `score`; the stream too may end with the first.
        """
        path = "/v1/chat/completions"
        body = self._with_model({"messages": messages, **options, "stream": True})
        with self._connection.lines("POST", path, encoded(body)) as lines:
            for line in lines:
                event = event_of(line, self._connection.url_of(path))
                if event is not None:
                    yield chat_of(event)

    def hidden_states(
        self, *, batch_size: int = BATCH_SIZE, progress: Progress = None, **fields: Any
    ) -> HiddenStates | Results[HiddenStates]:
        """What layers of the model make of texts, as arrays, by POST /v1/hidden_states.

        Args:
            batch_size, progress: as of `score`.
            fields: those of the request but `encoding_format`; contexts and completions as of
                `score`, and a context may stand alone.

        Returns:
            One result for one text, a list for `completions` and `items`.

        Raises:
            ServerError, UnavailableError: as `score`.
        """
        call = hidden_states_call(fields, batch_size)
        return self._done(call, progress)

    def served_model(self) -> ServedModel:
        """The model that is asked, as GET /v1/models describes it.

        Raises:
            ServerError: the server has no model of the name that was given.
            UnavailableError: it is away or busy after all retries.
        """
        with self._looking:
            if self._model is None:
                body = self._connection.ask("GET", MODELS, None)
                self._model = served_model_of(body, self._name, self._connection.url_of(MODELS))
        return self._model

    def get(self, path: str) -> Json:
        """The JSON object at a path, such as `/version`.

        Raises:
            ServerError, UnavailableError: as `score`.
        """
        body = self._connection.ask("GET", path, None)
        return any_object(body, self._connection.url_of(path))

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Post an object to any route that answers with one, such as `/v1/completions`.

        Args:
            body: sent as it is; `model` is not added.

        Raises:
            ServerError, UnavailableError: as `score`.
        """
        return any_object(
            self._connection.ask("POST", path, encoded(body)), self._connection.url_of(path)
        )

    def _with_model(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if body.get("model") is not None:
            return body
        return {**body, "model": self._name or self.served_model().name}

    def _done(self, call: Call[T], progress: Progress) -> T:
        stopping = threading.Event()
        total = sum(part.texts for part in call.parts)
        with reporting(progress, total) as report:
            if len(call.parts) == 1:
                answers = [self._answer(call, call.parts[0], stopping)]
                report(total)
                return call.result(answers)
            threads = min(len(call.parts), self._connection.options.concurrency)
            with ThreadPoolExecutor(max(1, threads)) as pool:
                tasks = {
                    pool.submit(self._answer, call, part, stopping): part for part in call.parts
                }
                try:
                    for task in as_completed(tasks):
                        task.result()
                        report(tasks[task].texts)
                except BaseException:
                    stopping.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            return call.result([task.result() for task in tasks])

    def _answer(self, call: Call[T], part: Part, stopping: threading.Event) -> Json:
        try:
            payload = encoded(self._with_model(part.body))
            body = self._connection.ask("POST", call.path, payload, stopping)
            return object_of(body, call.kind, self._connection.url_of(call.path))
        except ServerError as error:
            if len(call.parts) > 1:
                error.add_note(part.place)
            raise
