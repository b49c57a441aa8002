"""The one model of the small server, and what its handlers ask of the server: a `Host`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from conf_server.refusal import RefusalError
from conf_server.serving.error_body import ErrorBody, error_body
from conf_server.serving.host import AskedModel


@dataclass(frozen=True)
class ServedModel:
    """The names of a model, and what clients may know of it.

    Attributes:
        names: under which it is served; answers have the first.
        root: folder or name that the weights come from.
        max_len: tokens of prompt and answer together.
        created: seconds since 1970 when it was loaded.
        tells_cached: as in `Host`; there is no prefix cache.
    """

    names: tuple[str, ...]
    root: str
    max_len: int
    created: int = field(default_factory=lambda: int(time.time()))
    tells_cached: bool = False

    async def model_name(self, request: AskedModel) -> str:
        self.check_name(request.model)
        return self.names[0]

    def check_name(self, name: str | None) -> None:
        """
        Raises:
            RefusalError: of status 404, where no model has this name.
        """
        if name and name not in self.names:
            status, kind = HTTPStatus.NOT_FOUND.value, "NotFoundError"
            message = f"The model `{name}` does not exist. Valid aliases: {', '.join(self.names)}."
            refusal = RefusalError(None, message, status=status, kind=kind)
            refusal.field = "model"
            raise refusal

    def check_room(self, count: int) -> None:
        """There is no queue that could be full: requests wait for their turn."""

    def failure(self, error: Exception) -> ErrorBody:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return error_body(str(error) or type(error).__name__, "InternalServerError", status)

    def card(self, name: str) -> dict[str, Any]:
        """An entry of GET /v1/models."""
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "conf-server",
            "root": self.root,
            "parent": None,
            "max_model_len": self.max_len,
        }
