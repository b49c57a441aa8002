"""The address of a server."""

from __future__ import annotations

from urllib.parse import urlsplit


def server_url(url: str) -> str:
    """The server's address without a path. It may be given with the /v1 of OpenAI's clients.

    Raises:
        ValueError: it is no such address. The message says why, and does not repeat it.
    """
    parts = urlsplit(url)
    host, _ = (parts.hostname or "").encode("idna"), parts.port
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if not host:
        raise ValueError("names no host")
    if parts.query or parts.fragment:
        raise ValueError("must be the server's address alone")
    return url.rstrip("/").removesuffix("/v1")
