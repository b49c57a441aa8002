"""What a request is refused with, wherever the mistake is found."""

from __future__ import annotations

from typing import Any


class RefusalError(Exception):
    """A request that cannot be answered as it stands.

    Nothing below `serving` knows HTTP: this is raised there, and `serving` makes an answer of it.

    Attributes:
        field: path of the field that is wrong, as a client writes it (`items.3.prompt`).
        value: what stood there, where that helps.
        status: of the HTTP answer, 400 unless vLLM itself has refused with another.
        kind: the answer's `type`, likewise.
    """

    def __init__(
        self,
        field: str | None,
        message: str,
        value: Any = None,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
    ) -> None:
        """
        Args:
            message: what is wrong with the field, whose name is put before it.
        """
        super().__init__(f"`{field}`: {message}" if field else message)
        self.field = field
        self.value = value
        self.status = status
        self.kind = kind


class TooLongError(RefusalError):
    """A prompt does not fit the model. The message says how long it is."""
