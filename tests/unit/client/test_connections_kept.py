"""Connections of the asynchronous client: how many there are, and over TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conf_server.client import AsyncClient, Client, UnavailableError
from conf_server.client.connection import ssl_context

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'


class Counted:
    """Answers all requests, and counts the connections that they come by."""

    def __init__(self) -> None:
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    @asynccontextmanager
    async def served(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield f"{'https' if context else 'http'}://127.0.0.1:{port}"


async def test_a_connection_is_used_again() -> None:
    counted = Counted()
    async with counted.served() as url, AsyncClient(url) as client:
        for _ in range(5):
            await client.get("/")
        assert counted.connections == 1


async def test_there_are_no_more_connections_than_requests_at_once() -> None:
    counted = Counted()
    async with counted.served() as url, AsyncClient(url, concurrency=4) as client:
        await asyncio.gather(*(client.get("/") for _ in range(40)))
        assert 1 < counted.connections <= 4


async def test_a_request_that_is_cancelled_leaves_no_answer_behind() -> None:
    held = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/slow" in await reader.readuntil(b"\r\n\r\n"):
            held.set()
            await asyncio.sleep(3600)
        writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with AsyncClient(url, concurrency=1) as client:
        slow = asyncio.create_task(client.get("/slow"))
        await held.wait()
        slow.cancel()
        assert await client.get("/") == {"a": 1}
    server.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that nobody but itself has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(pem))
    return path


async def ask_both(url: str) -> list[object]:
    """What the two clients get."""

    def ask() -> object:
        with Client(url, retries=0) as client:
            return client.get("/")

    async with AsyncClient(url, retries=0) as client:
        return [await client.get("/"), await asyncio.to_thread(ask)]


async def test_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with Counted().served(context) as url:
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await ask_both(url)
        assert not isinstance(caught.value, UnavailableError)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        ssl_context.cache_clear()
        try:
            assert await ask_both(url) == [{"a": 1}, {"a": 1}]
        finally:
            ssl_context.cache_clear()
