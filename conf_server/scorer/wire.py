"""What server and scorer say to each other over a unix socket: frames of msgpack.

A frame is its length, four bytes with the most significant first, and then one message. Messages
hold the plain data of `backends.base` and `stats.forced` as it is. A numpy array is its dtype, its
shape and its bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from math import prod
from typing import Any, Final, get_origin

import msgspec
import numpy as np
from numpy.typing import NDArray

from conf_server.backends.base import (
    Caller,
    Chat,
    Completion,
    ForcingItem,
    ForcingJob,
    LabelQuestion,
    Limits,
    Plain,
    Prompt,
)
from conf_server.backends.transformers_options import TransformersOptions
from conf_server.refusal import RefusalError, TooLongError
from conf_server.stats.forced import (
    ForcedLabels,
    ForcedRows,
    ForcedStates,
    WantedRows,
    WantedStates,
)
from conf_server.stats.trace import TraceRows

MAX_FRAME: Final = 2**30
"""Bytes of a message."""

_LENGTH: Final = struct.Struct(">I")
_DTYPES: Final = frozenset({"<f4", "<f8", "<i4", "<i8"})


class WireError(Exception):
    """A frame that is too large, or that cannot be read. Nothing behind it can be read either."""


class FrameTooLargeError(WireError):
    """A message that has more bytes than a frame may have; nothing of it was sent."""


def unavailable(reason: str) -> RefusalError:
    """What is said to a client while the scorer cannot answer."""
    return RefusalError(None, reason, status=503, kind="ServiceUnavailableError")


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


# What two dataclasses share a place in is told apart by the place.


class WirePrompt(msgspec.Struct, frozen=True, array_like=True):
    """A `Prompt`: one of the two is there."""

    chat: Chat | None
    plain: Plain | None

    @classmethod
    def of(cls, prompt: Prompt) -> WirePrompt:
        if isinstance(prompt, Chat):
            return cls(prompt, None)
        return cls(None, prompt)

    def prompt(self) -> Prompt:
        prompt = self.plain if self.chat is None else self.chat
        if prompt is None:
            raise WireError("a prompt that is neither a chat nor a text")
        return prompt


class WireItem(msgspec.Struct, frozen=True, array_like=True):
    """A `ForcingItem`."""

    context: WirePrompt
    completions: tuple[Completion, ...]
    path: str
    paths: tuple[str, ...]
    rendered: tuple[int, ...] | None

    @classmethod
    def of(cls, item: ForcingItem) -> WireItem:
        context = WirePrompt.of(item.context)
        return cls(context, item.completions, item.path, item.paths, item.rendered)

    def item(self) -> ForcingItem:
        context = self.context.prompt()
        return ForcingItem(context, self.completions, self.path, self.paths, self.rendered)


# From the supervisor, and back to it.


class Start(_Message, frozen=True):
    """How to run: the first thing that the process is told.

    Attributes:
        path: of the socket to listen on.
        max_queue: requests that it may have at a time.
    """

    options: TransformersOptions
    path: str
    max_queue: int


class Hello(_Message, frozen=True):
    """The model is loaded and can be asked: also the first thing that a client is told.

    Attributes:
        model: its folder or name.
    """

    limits: Limits
    model: str


class NotLoaded(_Message, frozen=True):
    """The model cannot be loaded."""

    reason: str


# From a client. The number of a question comes back with its answer.


class AskPrepare(_Message, frozen=True):
    number: int
    items: list[WireItem]


class AskForce(_Message, frozen=True):
    number: int
    jobs: list[ForcingJob]
    wanted: WantedRows
    caller: Caller


class AskStates(_Message, frozen=True):
    number: int
    jobs: list[ForcingJob]
    wanted: WantedStates
    caller: Caller


class AskLabels(_Message, frozen=True):
    """One question, of which `ForcingBackend.labels` may have many."""

    number: int
    prompt: WirePrompt
    labels: tuple[str, ...]
    caller: Caller

    def question(self) -> LabelQuestion:
        return LabelQuestion(self.prompt.prompt(), self.labels)


class AskMove(_Message, frozen=True):
    """Bring the weights onto the GPU, or take them away; only for a scorer that is parked."""

    number: int
    on_device: bool


class Cancel(_Message, frozen=True):
    """Nobody waits for the answer any more."""

    number: int


Question = AskPrepare | AskForce | AskStates | AskLabels | AskMove


# To a client.


class Prepared(_Message, frozen=True):
    number: int
    result: list[ForcingJob]


class Moved(_Message, frozen=True):
    number: int
    result: None


class Rows(_Message, frozen=True):
    number: int
    result: list[ForcedRows]


class States(_Message, frozen=True):
    number: int
    result: list[ForcedStates]


class Labels(_Message, frozen=True):
    number: int
    result: ForcedLabels


class Refused(_Message, frozen=True):
    """A `RefusalError`, and all there is in it."""

    number: int
    field: str | None
    message: str
    value: Any
    status: int
    kind: str
    is_too_long: bool

    @classmethod
    def of(cls, number: int, error: RefusalError) -> Refused:
        message = str(error)
        if error.field:
            message = message.removeprefix(f"`{error.field}`: ")
        too_long = isinstance(error, TooLongError)
        return cls(number, error.field, message, error.value, error.status, error.kind, too_long)

    def error(self) -> RefusalError:
        make = TooLongError if self.is_too_long else RefusalError
        return make(self.field, self.message, self.value, status=self.status, kind=self.kind)


class Failed(_Message, frozen=True):
    """Something went wrong that nobody has foreseen. The process has logged it."""

    number: int
    message: str


Answer = Prepared | Rows | States | Labels | Moved | Refused | Failed


def _unfold(value: object) -> Any:
    """Parts of what msgpack does not know."""
    if isinstance(value, TraceRows):
        return value.named_ids, value.named_logprobs, value.ranks, value.statistics
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    raise NotImplementedError(f"{type(value)} cannot be sent")


def _fold(kind: type, value: Any) -> Any:
    """The opposite of `_unfold`. What is raised here becomes msgspec.ValidationError."""
    if kind is TraceRows:
        ids, logprobs, ranks, statistics = value
        whole = None if statistics is None else _array(statistics)
        return TraceRows(_array(ids), _array(logprobs), _array(ranks), whole)
    if get_origin(kind) is np.ndarray:
        return _array(value)
    raise NotImplementedError(f"{kind} cannot be read")


def _array(value: Any) -> NDArray[Any]:
    """A copy, which can be written to as the original could."""
    dtype, shape, data = value
    if dtype not in _DTYPES:
        raise ValueError(f"an array of {dtype!r}")
    if prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise ValueError(f"{len(data)} bytes do not make an array of {shape}")
    return np.frombuffer(data, dtype).reshape(shape).copy()


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_unfold)


class Decoder:
    """Reads the messages of one side of a connection."""

    def __init__(self, kinds: Any) -> None:
        """
        Args:
            kinds: union of the classes of messages that may come.
        """
        self._decoder = msgspec.msgpack.Decoder(kinds, dec_hook=_fold)

    def _message(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise WireError(f"a frame that cannot be read: {error}") from error

    async def read(self, reader: asyncio.StreamReader) -> Any:
        """The next message; None where the other side has gone, be it within a message.

        Raises:
            WireError: a frame is too large, or cannot be read.
        """
        try:
            header = await reader.readexactly(_LENGTH.size)
            return self._message(await reader.readexactly(_checked_length(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def receive(self, sock: socket.socket) -> Any:
        """The same of a socket that blocks."""
        header = _received(sock, _LENGTH.size)
        body = None if header is None else _received(sock, _checked_length(header))
        return None if body is None else self._message(body)


FROM_SUPERVISOR: Final = Decoder(Start)
TO_SUPERVISOR: Final = Decoder(Hello | NotLoaded)
FROM_CLIENT: Final = Decoder(Question | Cancel)
TO_CLIENT: Final = Decoder(Hello | Answer)


def frame(message: Any) -> bytes:
    """A message as it is sent.

    Raises:
        FrameTooLargeError: it has more than `MAX_FRAME` bytes.
    """
    body = _ENCODER.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameTooLargeError(f"{len(body)} bytes, at most {MAX_FRAME} in one message")
    return _LENGTH.pack(len(body)) + body


def _checked_length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME:
        raise WireError(f"a frame of {length} bytes, at most {MAX_FRAME}")
    return length


def _received(sock: socket.socket, length: int) -> bytes | None:
    """So many bytes; None where the other side has gone before."""
    parts = bytearray()
    while len(parts) < length:
        part = sock.recv(length - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
