"""A small HTTP client that costs little, so that a load is the server's and not its own."""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

_PATIENCE = 60.0  # seconds: an answer that takes longer hangs


class UnansweredError(Exception):
    """The connection ended before the answer did."""


class Answer(NamedTuple):
    """What a server answered; the names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON can be anything
        """Return what the body says."""
        return json.loads(self.body)


def request_bytes(
    method: str, path: str, content: object = None, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a request as it is sent."""
    body = b"" if content is None else json.dumps(content).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: hero-api\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


class Connection:
    """One keep-alive connection: requests go over it one after the other."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises `UnansweredError` when nobody listens.
        """
        try:
            self._streams = await asyncio.open_connection(*self._address)
        except OSError as error:
            raise UnansweredError(str(error)) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection at once, whatever is under way on it."""
        if self._streams is not None:
            self._streams[1].transport.abort()

    async def request(
        self,
        method: str,
        path: str,
        content: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and receive its answer.

        Raises `UnansweredError` when the connection ends before that.
        """
        await self.send(request_bytes(method, path, content, headers))
        return await self.receive()

    async def send(self, content: bytes) -> None:
        """Send some bytes."""
        assert self._streams is not None
        try:
            self._streams[1].write(content)
            await self._streams[1].drain()
        except OSError as error:
            raise UnansweredError(str(error)) from error

    async def receive(self) -> Answer:
        """Receive the next answer."""
        assert self._streams is not None
        reader = self._streams[0]
        try:
            async with asyncio.timeout(_PATIENCE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, *lines = head.rstrip().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines)
                }
                body = await reader.readexactly(int(headers["content-length"]))
        except (EOFError, ConnectionError) as error:
            raise UnansweredError(str(error)) from error
        return Answer(int(status.split()[1]), headers, body)
