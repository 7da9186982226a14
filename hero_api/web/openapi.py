"""The OpenAPI document, as generators of clients need it."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI


class DocumentedFastAPI(FastAPI):
    """Every integer has 64 bits, and every operation the name of its handler."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(
            version=version("hero-api"),
            generate_unique_id_function=lambda route: route.name,
            **options,
        )

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        _widen(document)
        return document


def _widen(node: Any) -> None:  # noqa: ANN401 - any part of the document
    """Say of integers that they have 64 bits: without it, generators take them for 32."""
    if isinstance(node, dict):
        if node.get("type") == "integer":
            node.setdefault("format", "int64")
        node = [*node.values()]
    if isinstance(node, list):
        for each in node:
            _widen(each)
