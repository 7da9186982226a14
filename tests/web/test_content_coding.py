"""A compressed body is a 415 that says what is taken."""

import gzip
import json
import zlib

import httpx
import pytest
from fastapi import FastAPI, Request

HERO = json.dumps({"name": "Deadpond", "secret_name": "Dive Wilson"}).encode()
CODED = {"gzip": gzip.compress(HERO), "deflate": zlib.compress(HERO), "br": b"\x0b\x02\x80{}\x03"}
pytestmark = pytest.mark.sqlite


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("kind", ["application/json", None])
async def test_a_compressed_body_is_not_supported(
    client: httpx.AsyncClient, coding: str, kind: str | None
) -> None:
    headers = {"Content-Encoding": coding} | ({"Content-Type": kind} if kind else {})
    answer = await client.post("/heroes/", content=CODED[coding], headers=headers)
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert coding in answer.json()["detail"]
    assert (await client.get("/heroes/")).json() == []


@pytest.mark.parametrize("coding", ["identity", ""])
async def test_a_body_that_is_not_coded_may_say_so(client: httpx.AsyncClient, coding: str) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    answer = await client.post("/heroes/", content=HERO, headers=headers)
    assert answer.status_code == 200
    answer = await client.post("/heroes/", content=b"\xff", headers=headers)
    assert answer.status_code == 400


async def test_a_route_that_decodes_its_bodies_may(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def decoded(request: Request) -> int:
        return len(gzip.decompress(await request.body()))

    app.post("/decoded")(decoded)
    headers = {"Content-Encoding": "gzip"}
    answer = await client.post("/decoded", content=CODED["gzip"], headers=headers)
    assert answer.json() == len(HERO)
