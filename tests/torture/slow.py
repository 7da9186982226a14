"""Slow senders and slow readers, beside clients that are not."""

import asyncio
import itertools
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Connection, request_bytes

CLIENTS = 32
SECONDS = 5.0
MEMORY = 1.5  # megabytes that a slow client takes at most
_LARGE = {"name": "Deadpond", "secret_name": "?" * 10_000}
_HEROES = 100  # a page of them has a megabyte
_DRIP = 0.25  # seconds between two bytes that are sent, or two kilobytes that are read
_PAGE = request_bytes("GET", "/heroes/")
_CREATE = request_bytes("POST", "/heroes/", _LARGE)
_SENT = [b"", _PAGE[:10], _PAGE[:-2], _CREATE[:200], _CREATE[:5_000]]


class Slowed(NamedTuple):
    """The seconds that 99 of 100 gets take at most: alone, and beside slow clients."""

    alone: float
    beside: float
    gets: int
    memory: float  # megabytes that the slow clients have added


async def compare(directory: Path, slow: int, rounds: int) -> AsyncIterator[Slowed]:
    """Yield what each round shows: gets alone, then beside so many slow clients."""
    with serving(directory) as server:
        async with Connection(server.host, server.port) as client:
            for _ in range(_HEROES):
                await client.request("POST", "/heroes/", _LARGE)
            await client.request("GET", "/heroes/")
        for _ in range(rounds):
            alone = await _run(server)
            before = server.memory()
            async with _slow_clients(server, slow):
                beside = await _run(server)
                memory = server.memory() - before
            yield Slowed(_p99(alone), _p99(beside), len(beside), memory)


def factor(seen: list[Slowed]) -> float:
    """Return by how much slow clients raise the p99 of the others: the median of the rounds."""
    return statistics.median(slowed.beside / slowed.alone for slowed in seen)


@asynccontextmanager
async def _slow_clients(server: Server, count: int) -> AsyncIterator[None]:
    """Keep so many slow clients connected; half of them send slowly, and half read slowly."""
    kinds = [_send_slowly, _read_slowly]
    tasks = [asyncio.create_task(kinds[number % 2](server, number)) for number in range(count)]
    await asyncio.sleep(4 * _DRIP)  # they are at it when the others begin
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send_slowly(server: Server, number: int) -> None:
    start = _SENT[number // 2 % len(_SENT)]
    while True:  # the server closes it when it takes too long
        with suppress(OSError):
            _, writer = await asyncio.open_connection(server.host, server.port)
            try:
                writer.write(start)
                while not writer.transport.is_closing():
                    await asyncio.sleep(_DRIP)
                    writer.write(b"x" if start else b"\r\n")
            finally:
                writer.transport.abort()


async def _read_slowly(server: Server, _number: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        with suppress(OSError), socket.socket() as wire:
            wire.settimeout(0)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            await loop.sock_connect(wire, (server.host, server.port))
            await loop.sock_sendall(wire, _PAGE * 10)
            answer = b"?"
            while answer:
                await asyncio.sleep(_DRIP)
                answer = await loop.sock_recv(wire, 1_024)


async def _run(server: Server) -> list[float]:
    """Return the seconds that each get of the usual clients takes."""
    end = time.monotonic() + SECONDS

    async def get(first: int) -> list[float]:
        took = []
        async with Connection(server.host, server.port) as client:
            for number in itertools.count(first):
                began = time.monotonic()
                if began >= end:
                    break
                answer = await client.request("GET", f"/heroes/{number % _HEROES + 1}")
                took.append(time.monotonic() - began)
                assert answer.status == 200
        return took

    return [*itertools.chain(*await asyncio.gather(*(get(n) for n in range(CLIENTS))))]


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]
