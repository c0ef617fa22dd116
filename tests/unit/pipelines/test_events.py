import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import InvalidOption
from deployments.validation import parse
from deployments.vision.prompts import events_prompt, first_kind
from pipelines.events import AskedEvents, ClipEvent, EventsError, read_events

KINDS = ("door opens", "fall")
FALL = {"event": "fall", "time_s": 3}


def read(answer: str, **how: bool) -> tuple[ClipEvent, ...] | EventsError:
    """Read the answer for a clip of ten seconds from 20 s on."""
    return read_events(answer, KINDS, 20.0, 30.0, **how)


@pytest.mark.parametrize("around", ["{}", " \n{}\t\n", "```json\n{}\n```", "\n```\n{}```\n", "```json \r\n{}\n  ```"])
def test_a_valid_answer_may_stand_in_a_fence_and_its_times_become_those_of_the_video(around: str) -> None:
    answer = [{"event": "fall", "object": "a chair", "time_s": 9.5}, {"event": "door opens", "time_s": 0}]
    assert read(around.format(json.dumps(answer))) == (
        ClipEvent("door opens", None, 20.0),
        ClipEvent("fall", "a chair", 29.5),
    )


def test_no_event_is_an_answer_and_both_ends_of_a_clip_belong_to_it() -> None:
    assert read("[]") == ()
    assert read('[{"event": "fall", "object": null, "time_s": 10.0}]') == (ClipEvent("fall", None, 30.0),)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("A man falls.", "expected a JSON array of events, got 'A man falls.'"),
        ("", "expected a JSON array of events, got ''"),
        ("Here it is:\n```json\n[]\n```", "expected a JSON array of events, got 'Here it is:"),
        (json.dumps([FALL])[:-1], "expected a JSON array of events, got"),
        (json.dumps(FALL), "events: input should be a valid array, got {'event': 'fall', 'time_s': 3}"),
        (json.dumps([FALL, 3]), "events[1]: input should be an object, got 3"),
        (json.dumps([FALL | {"event": "Fall"}]), "events[0].event: expected one of 'door opens', 'fall', got 'Fall'"),
        (json.dumps([{"event": "fall"}]), "events[0].time_s: field required"),
        (json.dumps([FALL | {"time_s": "3"}]), "events[0].time_s: input should be a valid number, got '3'"),
        (json.dumps([FALL | {"time_s": True}]), "events[0].time_s: input should be a valid number, got True"),
        (json.dumps([FALL | {"time_s": float("nan")}]), "events[0].time_s: input should be a finite number, got nan"),
        (json.dumps([FALL | {"time_s": -0.1}]), "events[0].time_s: input should be greater than or equal to 0"),
        (json.dumps([FALL | {"time_s": 23}]), "events[0].time_s: expected at most the clip's 10 s, got 23"),
        (json.dumps([FALL | {"object": 7}]), "events[0].object: input should be a valid string, got 7"),
        (json.dumps([FALL | {"object": "x" * 201}]), "events[0].object: string should have at most 200 characters"),
        (json.dumps([FALL | {"confidence": 1}]), "events[0].confidence: extra inputs are not permitted, got 1"),
        ('[{"event": "fall", "object": "\\ud83d", "time_s": 3}]', "expected a JSON array of events, got"),
        ("[" * 100_000, "expected a JSON array of events, got"),
    ],
)
def test_any_other_answer_is_an_error_that_says_in_one_short_line_what_came(answer: str, said: str) -> None:
    error = read(answer)
    assert isinstance(error, EventsError)
    assert error.code == "invalid_events"
    assert error.message.startswith(said)
    assert "\n" not in error.message
    assert len(error.message) < 300


def test_an_answer_that_was_cut_off_says_so() -> None:
    error = read('[{"event": "fall", "ti', cut_off=True)
    assert error == EventsError(
        "invalid_events", "expected a JSON array of events, got an answer that was cut off at 512 tokens"
    )


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_answer_at_all_is_an_exception(answer: str) -> None:
    found = read(answer)
    assert isinstance(found, EventsError) or all(event.event in KINDS and 20 <= event.time_s <= 30 for event in found)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (["x"] * 17, "events: tuple should have at most 16 items"),
        (["a", "b", "a"], "events must name each kind once, got 'a' again"),
        ([""], "events.0: string should have at least 1 character"),
        (["x" * 201], "events.0: string should have at most 200 characters"),
        (["a\nb"], "a kind of event must be printable text without spaces around it, got 'a\\nb'"),
        ([" a"], "a kind of event must be printable text without spaces around it, got ' a'"),
        (["\ud83d"], "events.0: input should be a valid string"),
        ([3], "events.0: input should be a valid string, got 3"),
    ],
)
def test_kinds_that_cannot_be_asked_for_are_refused(events: list[Any], said: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        parse(AskedEvents, {"events": events}, error=InvalidOption)
    assert said in refused.value.message


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_a_question_for_events_is_known_by_its_first_kind(kinds: list[str]) -> None:
    assert first_kind(events_prompt(kinds)) == kinds[0]


@pytest.mark.parametrize("prompt", ["Describe it.", "List every event of these kinds in the clip: all of them", ""])
def test_any_other_prompt_is_no_question_for_events(prompt: str) -> None:
    assert first_kind(prompt) is None
