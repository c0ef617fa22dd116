"""The words: true of the scene at the moments looked at, and readable back."""

import json

import numpy as np
import pytest

from deployments.vision.demo import answers
from deployments.vision.demo.clips import sample_clip, sample_shape
from deployments.vision.demo.prompts import QUESTIONS, sample_description_prompt, sample_question, sample_unknown_prompt
from deployments.vision.demo.scenes import Clock, SceneSpec, Shot, Thing
from deployments.vision.demo.scoring import clock_error_s, same_events, score_descriptions
from deployments.vision.prompts import DEFAULT_PROMPT, events_prompt

RED = Thing("red", "circle", "large", "right", (0.2, 0.5), (0.4, 0.5), radius=0.2)
BLUE = Thing("blue", "star", "small", "still", (0.8, 0.5), (0.8, 0.5), radius=0.12, enters_s=4.0)
SPEC = SceneSpec((Shot("dark", (BLUE, RED), 0.0, 10.0, seed=1),), Clock("top left", 81.5))
CUT = SceneSpec((Shot("dark", (RED,), 0.0, 5.0, seed=1), Shot("light", (), 5.0, 10.0, seed=1)))


def test_a_description_tells_what_the_frames_show() -> None:
    assert answers.truth(SPEC, [2.0, 4.0, 6.0]) == (
        "A large red circle moves right. A small blue star appears and stays still. "
        "The background is dark. The clock says 01:23."
    )
    assert answers.truth(SPEC, [4.0, 6.0]) == (
        "A large red circle moves right. A small blue star stays still. The background is dark. The clock says 01:25."
    )


def test_one_moment_shows_no_motion() -> None:
    assert answers.truth(SPEC, [0.0]) == "A large red circle. The background is dark. The clock says 01:21."
    assert answers.truth(SPEC, [0.0, 5.0]).count("A small blue star appears.") == 1


def test_a_cut_is_told_where_it_is_seen() -> None:
    first = "A large red circle moves right. The background is dark."
    assert answers.truth(CUT, [0.0, 2.0, 6.0]) == f"First: {first} Then: The background is light."
    assert answers.truth(CUT, [0.0, 2.0]) == first


def test_events_have_the_time_since_the_first_frame() -> None:
    assert json.loads(answers.events(SPEC, [1.0, 2.6, 4.2])) == [
        {"event": "appears", "object": "blue star", "time_s": 3}
    ]
    assert json.loads(answers.events(CUT, [0.0, 4.0, 6.0])) == [{"event": "cut", "time_s": 6}]
    assert answers.events(CUT, [0.0, 4.0]) == "[]"


def test_events_of_other_kinds_than_asked_for_are_left_out() -> None:
    assert len(json.loads(answers.events(SPEC, [1.0, 4.2], ["cut", "appears"]))) == 1
    assert answers.events(SPEC, [1.0, 4.2], ["cut", "disappears"]) == "[]"
    assert events_prompt(["cut", "a “door” opens"]).startswith(
        'List every event of these kinds in the clip: "cut", "a “door” opens". Answer with a JSON array only'
    )


def test_events_are_asked_for_as_analyses_do_and_otherwise() -> None:
    rng, asked = np.random.default_rng(0), set()
    for _ in range(40):
        _, prompt, answer = sample_question(rng, SPEC, [1.0, 2.6, 4.2], "events")
        wanted = '"appears"' in prompt or prompt in QUESTIONS["events"]
        assert (answer != "[]") == wanted
        asked.add(prompt)
    assert {*QUESTIONS["events"], events_prompt(["cut"])} <= asked


def test_questions_are_answered_honestly() -> None:
    seen = answers.observe(SPEC, [2.0, 4.0, 6.0])
    assert answers.count(seen) == "Two."
    assert answers.background(seen) == "Dark."
    assert answers.clock(seen) == "01:23."
    assert answers.clock(answers.observe(CUT, [0.0])) == "There is no clock."
    assert answers.colour_of(seen, "star") == "Blue."
    assert answers.colour_of(seen, "square") == "There is no square."
    assert answers.shape_of(seen, "red") == "Circle."
    assert answers.shape_of(seen, "pink") == "There is no pink object."
    assert answers.direction_of(seen, "red") == "Right."
    assert answers.direction_of(seen, "blue") == "It stays still."
    assert answers.direction_of(answers.observe(SPEC, [0.0]), "red") == "One moment shows no motion."


def test_every_description_reads_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        clip = sample_clip(rng, *sample_shape(rng))
        seen = answers.observe(clip.spec, clip.times_s.tolist())
        assert answers.parse(answers.write(seen)) == seen


@pytest.mark.parametrize("text", ["", "I don't know.", "A large red circle moves right."])
def test_other_texts_are_no_descriptions(text: str) -> None:
    assert answers.parse(text) is None


def test_the_right_words_score_one_and_wrong_ones_less() -> None:
    rng = np.random.default_rng(1)
    clips = [sample_clip(rng, 4, (196, 112)) for _ in range(40)]
    truths = [clip.seen for clip in clips]
    texts = [answers.write(seen) for seen in truths]
    assert set(score_descriptions(truths, texts).values()) == {1.0}
    assert set(score_descriptions(truths, ["nothing"] * 40).values()) == {0.0}
    late = score_descriptions(truths, [text.replace("small", "large") for text in texts])
    assert late["colour"] == late["shape"] == late["clock"] == 1.0
    assert 0 < late["size"] < 1
    assert late["exact"] < 1


def test_a_clock_may_be_a_second_off() -> None:
    clip = sample_clip(np.random.default_rng(0), 1, (196, 112))
    seen = answers.observe(SceneSpec(clip.spec.shots, Clock("top left", 60.0)), [0.0])
    for reading, close, off_s in (("00:59", 1.0, 1.0), ("01:01", 1.0, 1.0), ("01:02", 0.0, 2.0)):
        told = answers.write(seen).replace("01:00", reading)
        scores = score_descriptions([seen], [told])
        assert (scores["clock"], scores["clock exact"]) == (close, 0.0)
        assert clock_error_s([seen, seen], [told, answers.write(seen)]) == off_s / 2
    assert clock_error_s([seen], ["nothing"]) == 0.0


@pytest.mark.parametrize("kind", [*QUESTIONS, "describe", "unknown"])
def test_every_kind_of_question_has_an_answer(kind: str) -> None:
    rng = np.random.default_rng(0)
    answered = set()
    for _ in range(40):
        clip = sample_clip(rng, *sample_shape(rng))
        if len(clip.spec.shots) == 1:
            told, prompt, answer = sample_question(rng, clip.spec, clip.times_s.tolist(), kind)
            assert told == kind
            assert "{colour}" not in prompt
            assert "{shape}" not in prompt
            assert answer
            answered.add(answer)
    assert len(answered) > (0 if kind == "unknown" else 1)


@pytest.mark.parametrize("kind", [*QUESTIONS, "unknown", "describe"])
def test_every_right_answer_is_one_that_the_model_has_words_for(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        clip = sample_clip(rng, *sample_shape(rng))
        if kind in ("unknown", "describe", "events", "clock") or len(clip.spec.shots) == 1:
            _, _, right = sample_question(rng, clip.spec, clip.times_s.tolist(), kind)
            assert answers.is_answer(right), right


@pytest.mark.parametrize(
    "text", ["", "A", "Red", "Red. Blue.", "A large red circle moves right.", "[1]", "{}", "12:3."]
)
def test_other_texts_are_no_answers(text: str) -> None:
    assert not answers.is_answer(text)


def test_events_may_be_a_second_off() -> None:
    right = answers.events(SPEC, [2.0, 4.0, 6.0])
    assert same_events(right, right, within_s=0)
    late = right.replace('"time_s": 2', '"time_s": 3')
    assert late != right
    assert same_events(late, right, within_s=1)
    assert not same_events(late, right, within_s=0)
    for wrong in ("[]", "none", right.replace("blue", "red"), right.replace("appears", "disappears")):
        assert not same_events(wrong, right, within_s=9)


def test_prompts_vary() -> None:
    rng = np.random.default_rng(0)
    described = [sample_description_prompt(rng) for _ in range(300)]
    assert described.count(DEFAULT_PROMPT) > 100
    assert len(set(described)) > 40
    unknown = {sample_unknown_prompt(rng) for _ in range(300)}
    assert len(unknown) > 150
    assert all(prompt.endswith("?") for prompt in unknown)
