"""JSON Lines: one object a line (https://jsonlines.org)."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

MEDIA_TYPE = "application/jsonl"

Model = TypeVar("Model", bound=BaseModel)


def read_lines(model: type[Model], lines: Iterable[bytes]) -> Iterator[tuple[int, Model | str]]:
    """Yield what each line holds, or why it is no such object; blank ones are passed over.

    Lines are numbered from 1 on.
    """
    for number, line in enumerate(lines, 1):
        if line.isspace() or not line:
            continue
        try:
            yield number, model.model_validate_json(line)
        except ValidationError as error:
            yield number, _reason(error)


def _reason(error: ValidationError) -> str:
    """Return what is wrong with an object in one line, which quotes nothing of it."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        " ".join([*(f"{name}:" for name in problem["loc"]), *problem["msg"].split()])
        for problem in problems
    )
