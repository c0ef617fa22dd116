"""`/v1/analyze`: a video and what to ask about it in one request."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic_core import from_json
from starlette.datastructures import FormData

from deployments.errors import InvalidOption
from deployments.validation import parse
from serve_app.analyses.submission import Asked
from serve_app.api.access import Analyst, Injected
from serve_app.api.analyses import ACCEPTED, AnalysisObject, accept
from serve_app.api.errors import ErrorAnswer
from serve_app.api.files import REFUSED
from serve_app.api.form import chunks, file_of, plain_name, read_form
from serve_app.api.new_analysis import NewAnalysisOptions
from serve_app.stored_file import Naming

router = APIRouter(prefix="/v1/analyze", tags=["analyses"])


def _form_fields() -> dict[str, Any]:
    """Return the options' schemas as a form has them: there is no null in one, a field is left out."""
    fields: dict[str, Any] = NewAnalysisOptions.model_json_schema()["properties"]
    for field in fields.values():
        if "anyOf" in field:
            field |= field.pop("anyOf")[0]
            del field["default"]
    fields["metadata"]["additionalProperties"] = True
    return fields


_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {"file": {"type": "string", "format": "binary"}} | _form_fields(),
            },
            "encoding": {"metadata": {"contentType": "application/json"}, "events": {"style": "form", "explode": True}},
            "examples": {
                "film": {
                    "summary": "curl -F file=@cats.mp4 -F fps=2 -F events='a cat jumps' -F events='a door opens' ...",
                    "value": {"file": "(the bytes)", "fps": 2, "events": ["a cat jumps", "a door opens"]},
                }
            },
        }
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **REFUSED,
    404: {"model": ErrorAnswer, "description": "No such model"},
    409: {"model": ErrorAnswer, "description": "The Idempotency-Key came with another request before"},
}


@router.post("", status_code=202, responses=ACCEPTED | _ANSWERS, openapi_extra={"requestBody": _BODY})
async def analyze(
    request: Request,
    response: Response,
    principal: Analyst,
    services: Injected,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> AnalysisObject:
    """Store a video of at most 64 MiB and accept its analysis, as `POST /v1/files` and `POST /v1/analyses` do in turn.

    The options are fields of the form beside `file`, in any order, each in plain text: `events` comes once for each
    kind, `metadata` is JSON. Options that are wrong by themselves are refused before anything is stored; a video that
    they do not fit (`start_s` behind its end) stays as a file, and the same bytes sent again are that file.
    """
    async with read_form(request, max_file_bytes=services.uploads.max_part_bytes) as form:
        file = file_of(form, "file")
        asked = parse(NewAnalysisOptions, _options_of(form), error=InvalidOption)
        options = asked.options(services.default_model)
        services.analyses.model(options.model)
        stored = await services.files.add(principal, Naming(plain_name(file.filename)), chunks(file), file.size)
    wanted = Asked(stored.id, options, asked.metadata, idempotency_key)
    return await accept(wanted, response, principal, services)


def _options_of(form: FormData) -> dict[str, Any]:
    """Return the fields beside the file by name. Raises InvalidOption where one comes twice or is no JSON."""
    given: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "events":
            given.setdefault(name, []).append(value)
        elif name in given:
            raise InvalidOption(f"expected {name} once, got it again", param=name)
        elif name != "file":
            given[name] = value
    if "metadata" in given:
        try:
            given["metadata"] = from_json(given["metadata"], allow_inf_nan=False)
        except ValueError:
            raise InvalidOption("metadata must be a JSON object, got other text", param="metadata") from None
    return given
