"""How new connections are taken in."""

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from hero_api.server.acceptor import Acceptor

PATIENCE = 20  # seconds


class Greeter(asyncio.Protocol):
    """Greets whoever connects."""

    greeted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        type(self).greeted += 1
        transport.write(b"hello")
        transport.close()


class Exhausted(socket.socket):
    """A listener that has no descriptor left for the next connections."""

    refusals = 0
    refused: asyncio.Event

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            self.refused.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture
def listener() -> Iterator[Exhausted]:
    with Exhausted() as listener:
        listener.refused = asyncio.Event()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield listener


@pytest.fixture
def protocol() -> type[Greeter]:
    return type("Greeter", (Greeter,), {})  # which counts from zero


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=PATIENCE)


async def greeting(client: socket.socket) -> bytes:
    with client:
        return await asyncio.to_thread(client.recv, 100)


async def test_a_client_is_served(listener: Exhausted, protocol: type[Greeter]) -> None:
    acceptor = Acceptor(listener, protocol)
    assert await greeting(connect(listener)) == b"hello"
    await acceptor.close()


async def test_clients_that_came_together_are_taken_in_within_a_few_turns(
    listener: Exhausted, protocol: type[Greeter]
) -> None:
    clients = [connect(listener) for _ in range(200)]
    acceptor = Acceptor(listener, protocol)
    turns = 0
    while protocol.greeted < len(clients) and turns < len(clients):
        await asyncio.sleep(0.001)
        turns += 1
    assert protocol.greeted == len(clients)
    assert turns < 20
    for client in clients:
        assert await greeting(client) == b"hello"
    await acceptor.close()


async def test_clients_wait_while_no_descriptor_is_left(
    listener: Exhausted, protocol: type[Greeter]
) -> None:
    listener.refusals = 3
    acceptor = Acceptor(listener, protocol)
    assert await greeting(connect(listener)) == b"hello"
    assert listener.refusals == 0
    await acceptor.close()


async def test_nobody_is_taken_in_after_the_end(
    listener: Exhausted, protocol: type[Greeter]
) -> None:
    acceptor = Acceptor(listener, protocol)
    await acceptor.close()
    assert listener.fileno() == -1
    assert protocol.greeted == 0


async def test_it_ends_while_no_descriptor_is_left(
    listener: Exhausted, protocol: type[Greeter]
) -> None:
    listener.refusals = 1_000_000
    acceptor = Acceptor(listener, protocol)
    with connect(listener):
        async with asyncio.timeout(PATIENCE):
            await listener.refused.wait()
        await acceptor.close()
    assert listener.fileno() == -1
