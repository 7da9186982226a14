"""The OpenAPI document, as generators of clients need it."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_PLACE = "#/components/schemas/{model}"


def schema_of(model: type[BaseModel]) -> dict[str, str]:
    """Return what the document says where it means a model: where its schema is."""
    return {"$ref": _PLACE.format(model=model.__name__)}


def complete_document(app: FastAPI, models: Sequence[type[BaseModel]]) -> None:
    """Add to the document of `app` models that `schema_of` names, and that integers have 64 bits.

    Generators take integers for 32 bits. And as the `model` of a response, FastAPI would make a
    validator of it for each response of each route, which is most of the time that an application
    takes to make.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _, schemas = models_json_schema(
            [(model, "serialization") for model in models], ref_template=_PLACE
        )
        document["components"]["schemas"] |= schemas["$defs"]
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
