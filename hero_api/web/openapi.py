"""The OpenAPI document, as generators of clients need it."""

from typing import Any

from fastapi import FastAPI


def say_64_bits(app: FastAPI) -> None:
    """Say in the document of `app` that integers have 64 bits: generators take them for 32."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _say_64_bits(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign] # as FastAPI's documentation extends it


def _say_64_bits(node: Any) -> None:  # noqa: ANN401 - any part of the document
    if isinstance(node, dict):
        if node.get("type") == "integer":
            node["format"] = "int64"
        node = [*node.values()]
    if isinstance(node, list):
        for each in node:
            _say_64_bits(each)
