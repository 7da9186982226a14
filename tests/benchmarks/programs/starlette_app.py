"""Bare Starlette: routes that answer constants, rendered once. What is left above it is ours."""

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def _hero(number: int) -> dict[str, object]:
    name, secret_name = f"Hero {number}", f"Secret name {number}"
    return {"id": number, "name": name, "age": number % 100, "secret_name": secret_name}


HERO = json.dumps(_hero(5000), separators=(",", ":"))
PAGE = json.dumps([_hero(number) for number in range(5000, 5100)], separators=(",", ":"))


async def create_hero(request: Request) -> Response:
    await request.json()
    return Response(HERO, media_type="application/json")


async def read_heroes(_request: Request) -> Response:
    return Response(PAGE, media_type="application/json")


async def read_hero(_request: Request) -> Response:
    return Response(HERO, media_type="application/json")


app = Starlette(
    routes=[
        Route("/heroes/{hero_id:int}", read_hero),
        Route("/heroes/", read_heroes),
        Route("/heroes/", create_hero, methods=["POST"]),
    ]
)
