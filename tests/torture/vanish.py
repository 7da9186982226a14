"""Clients that vanish: they leave at a random point of a request, or of its answer."""

import asyncio
import random
import socket
import struct
from typing import NamedTuple

from tests.servers import Server

from .ledger import Hero
from .wire import Connection, request_bytes

AT_ONCE = 50
_RESET = struct.pack("ii", 1, 0)  # a close that sends a reset, not an end


class Held(NamedTuple):
    """How many files, connections and threads a server has."""

    descriptors: int
    threads: int


async def vanish(server: Server, chance: random.Random, clients: int) -> set[Hero]:
    """Let so many clients vanish; return what they asked to create."""
    asked: set[Hero] = set()
    for start in range(0, clients, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, clients))
        await asyncio.gather(*(_vanish(server, chance, number, asked) for number in numbers))
    return asked


async def _vanish(server: Server, chance: random.Random, number: int, asked: set[Hero]) -> None:
    content, hero = _request(chance, number)
    # Half of them stay until the whole request is sent, or some of its answer is there.
    cut = chance.choice([len(content), chance.randrange(len(content) + 1)])
    reads, resets = chance.choice([0, 0, 1, 100]), chance.random() < 0.5
    reader, writer = await asyncio.open_connection(server.host, server.port)
    if resets:
        wire = writer.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.write(content[:cut])
    if hero is not None and cut == len(content):
        asked.add(hero)
    if reads and cut == len(content):
        await reader.read(reads)
    if resets:
        writer.transport.abort()
    else:
        writer.close()


def _request(chance: random.Random, number: int) -> tuple[bytes, Hero | None]:
    hero = Hero(f"vanished {number}", None, "?")
    match chance.randrange(5):
        case 0:
            return request_bytes("GET", "/heroes/1"), None
        case 1:
            return request_bytes("GET", "/heroes/"), None
        case 2:
            return request_bytes("PATCH", "/heroes/1", {"age": number}), None
        case 3:
            return request_bytes("DELETE", "/heroes/1000000"), None
        case _:
            return request_bytes("POST", "/heroes/", hero._asdict()), hero


async def busy(server: Server) -> float:
    """Return how many calls wait in the queues, by the service's own count."""
    async with Connection(server.host, server.port) as connection:
        text = (await connection.request("GET", "/metrics")).body.decode()
    return sum(float(line.split()[1]) for line in text.splitlines() if "queue_waiting{" in line)


async def statuses(server: Server) -> list[int]:
    """Return what a create and a get of its hero are answered now."""
    async with Connection(server.host, server.port) as connection:
        hero = Hero("after", None, "?")._asdict()
        created = await connection.request("POST", "/heroes/", hero)
        got = await connection.request("GET", created.headers.get("location", "/heroes/1"))
    return [created.status, got.status]


def held(server: Server) -> Held:
    """Return what the server holds now."""
    return Held(server.descriptors(), server.threads())


async def settle(server: Server, expected: Held) -> Held:
    """Wait until the server holds what is expected, at most 10 s; return what it holds."""
    for _ in range(500):
        if held(server) == expected:
            break
        await asyncio.sleep(0.02)
    return held(server)


async def warm_up(server: Server) -> Held:
    """Let the server open what it opens for good; return what it holds then."""
    async with Connection(server.host, server.port) as connection:
        await connection.request("POST", "/heroes/", Hero("first", None, "?")._asdict())
        await connection.request("GET", "/heroes/1")
        now = held(server)
    return await settle(server, Held(now.descriptors - 1, now.threads))
