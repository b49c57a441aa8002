"""What our handlers ask of the server that they answer for, whichever it is."""

from __future__ import annotations

from typing import Protocol

from conf_server.serving.error_body import ErrorBody


class AskedModel(Protocol):
    """A request that names a model, or does not."""

    model: str | None


class Host(Protocol):
    """A server: the one that vLLM has built, or the small one."""

    @property
    def tells_cached(self) -> bool:
        """Whether `usage` says how much the prefix cache has saved: it tells what other clients
        have sent."""
        ...

    async def model_name(self, request: AskedModel) -> str:
        """The name under which the request's model answers. To be asked before anything else.

        Raises:
            RefusalError: of status 404, where there is no such model.
        """
        ...

    def check_room(self, count: int) -> None:
        """Find out, before an answer begins, whether this much can be worked on.

        Args:
            count: sequences that the request will occupy.

        Raises:
            Exception: what this server answers with a 503.
        """
        ...

    def failure(self, error: Exception) -> ErrorBody:
        """The error of a stream that has begun, which no exception handler can answer any more."""
        ...
