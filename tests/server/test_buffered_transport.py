"""What an answer is sent as."""

import asyncio
from typing import Any

import pytest

from hero_api.server.buffered_transport import BufferedTransport


class Wire(asyncio.Transport):
    """A transport that takes note of what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []
        self.is_left = False

    def write(self, data: Any) -> None:  # noqa: ANN401 - bytes of any kind
        if self.is_left:
            raise RuntimeError("the handler is closed")  # as uvloop has it
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def is_closing(self) -> bool:
        return self.is_left


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def transport(wire: Wire) -> BufferedTransport:
    return BufferedTransport(wire)


async def test_what_is_written_in_one_turn_is_sent_in_one_piece(
    wire: Wire, transport: BufferedTransport
) -> None:
    transport.write(b"head ")
    transport.write(bytearray(b"body"))
    assert wire.told == []
    await asyncio.sleep(0)
    assert wire.told == [b"head body"]


async def test_what_is_written_later_is_sent_later(
    wire: Wire, transport: BufferedTransport
) -> None:
    transport.write(b"HTTP/1.1 100 Continue")
    await asyncio.sleep(0)
    transport.write(b"HTTP/1.1 200 OK")
    await asyncio.sleep(0)
    assert wire.told == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"]


async def test_all_is_sent_before_the_end(wire: Wire, transport: BufferedTransport) -> None:
    transport.write(b"head ")
    transport.write(b"body")
    transport.close()
    await asyncio.sleep(0)
    assert wire.told == [b"head body", "close"]


async def test_nothing_is_sent_after_an_abort(wire: Wire, transport: BufferedTransport) -> None:
    transport.write(b"head")
    transport.abort()
    await asyncio.sleep(0)
    assert wire.told == ["abort"]


async def test_an_answer_to_a_client_that_has_just_left_is_no_error(
    wire: Wire, transport: BufferedTransport
) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, error: errors.append(error))
    transport.write(b"head")
    wire.is_left = True
    await asyncio.sleep(0)
    transport.write(b"body")
    transport.close()
    await asyncio.sleep(0)
    assert wire.told == ["close"]
    assert errors == []
