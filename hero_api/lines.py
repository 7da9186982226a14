"""JSON Lines: one object a line (https://jsonlines.org)."""

from codecs import BOM_UTF8
from typing import TypeVar

from pydantic import BaseModel, ValidationError

MEDIA_TYPE = "application/jsonl"

Model = TypeVar("Model", bound=BaseModel)


def read_line(model: type[Model], line: bytes) -> Model | ValidationError | None:
    """Return what a line holds, or why it is no such object; nothing of a blank one."""
    line = line.removeprefix(BOM_UTF8)  # of a file, or in the midst of several that were joined
    if not line.strip():
        return None
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        return error


def reason(error: ValidationError) -> str:
    """Return what is wrong with an object in one line, which quotes nothing of it."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        " ".join([*(f"{name}:" for name in problem["loc"]), *problem["msg"].split()])
        for problem in problems
    )
