"""Events of asked kinds in a clip: what a question for them may name, and the model's answer, checked strictly."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MAX_TOKENS = 512
"""Longest answer about events: some 25 events, whatever the caption's own bound."""
_MAX_OBJECT_CHARS = 200
_MAX_SHOWN_CHARS = 80
_FENCE = re.compile(r"\s*```(?:json)?\s(.*)```\s*", re.DOTALL)


def _printable(kind: str) -> str:
    if not kind.isprintable() or kind != kind.strip():
        raise ValueError(f"a kind of event must be printable text without spaces around it, got {kind!r}")
    return kind


def _unique(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"events must name each kind once, got {next(k for k in kinds if kinds.count(k) > 1)!r} again")
    return kinds


EventKind = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
EventKinds = Annotated[
    tuple[EventKind, ...], Field(max_length=16, json_schema_extra={"uniqueItems": True}), AfterValidator(_unique)
]
"""What may be asked for; empty: nothing is."""


class AskedEvents(BaseModel):
    """The kinds of events that are asked for, by themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: EventKinds = ()


@dataclass(frozen=True, slots=True)
class ClipEvent:
    """Something of an asked kind that the model saw at `time_s` seconds of the video; `object` is who or what."""

    event: str
    object: str | None
    time_s: float


@dataclass(frozen=True, slots=True)
class EventsError:
    """Why a clip that was asked for events has none to show."""

    code: str
    message: str


class _Answered(BaseModel):
    """One event as the model writes it; `time_s` counts from the clip's start."""

    model_config = ConfigDict(extra="forbid", strict=True)

    event: str
    object: Annotated[str, Field(max_length=_MAX_OBJECT_CHARS)] | None = None
    time_s: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


_ANSWER = TypeAdapter(list[_Answered])


def read_events(
    answer: str, kinds: Collection[str], start_s: float, end_s: float, *, cut_off: bool = False
) -> tuple[ClipEvent, ...] | EventsError:
    """Return the events that the answer for the clip `[start_s, end_s)` holds, in time order, or what is wrong with it.

    The answer is a JSON array of objects with `event`, one of the kinds, `time_s`, within the clip, and perhaps
    `object`; around it stands nothing but white space and a Markdown fence. `cut_off`: the model wrote as much as it
    was allowed to.
    """
    fenced = _FENCE.fullmatch(answer)
    try:
        found = _ANSWER.validate_json(fenced[1] if fenced else answer)
    except ValidationError as invalid:
        first: Any = invalid.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            came = f"got an answer that was cut off at {MAX_TOKENS} tokens" if cut_off else f"got {_shown(answer)}"
            return _invalid(f"expected a JSON array of events, {came}")
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        return _invalid(f"events{where}: {message}, got {_shown(first['input'])}")
    length_s = round(end_s - start_s, 6)
    for place, one in enumerate(found):
        if one.event not in kinds:
            wanted = ", ".join(repr(kind) for kind in kinds)
            return _invalid(f"events[{place}].event: expected one of {_cut(wanted)}, got {_shown(one.event)}")
        if one.time_s > length_s:
            return _invalid(f"events[{place}].time_s: expected at most the clip's {length_s:g} s, got {one.time_s:g}")
    events = (ClipEvent(one.event, one.object, round(start_s + one.time_s, 6)) for one in found)
    return tuple(sorted(events, key=lambda event: event.time_s))


def _invalid(message: str) -> EventsError:
    return EventsError("invalid_events", message)


def _shown(value: object) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"
