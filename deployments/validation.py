"""Say in one line what a pydantic model found wrong: expected first, then what came."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deployments.errors import InvalidInput

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], data: Mapping[str, Any], *, error: type[InvalidInput], where: str = "") -> Model:
    """Return `data` as a `model`; raise `error` with one line about the first thing wrong, `where` named before it."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        raise error(_line(model, first, where), param=_path(first["loc"], where)) from None


def _path(location: tuple[int | str, ...], where: str) -> str:
    return ".".join(str(part) for part in ((where,) if where else ()) + location)


def _line(model: type[BaseModel], found: Any, where: str) -> str:
    name, came, kind = _path(found["loc"], where), found["input"], found["type"]
    if kind == "extra_forbidden":
        parent: Any = model
        for part in found["loc"][:-1]:
            field = getattr(parent, "model_fields", {}).get(part)
            parent = field.annotation if field is not None else None
        known = ", ".join(parent.model_fields) if hasattr(parent, "model_fields") else "the documented keys"
        return f"expected one of {known}, got unknown key {name}"
    message = str(found["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return f"{where}: {message}" if where else message
    if kind == "missing":
        return f"{name} is required, got nothing"
    return f"{name}: {message[0].lower()}{message[1:]}, got {came!r}"
