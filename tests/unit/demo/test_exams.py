"""The evaluation asks what it says it asks, and scores whoever answers."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from benchmarks.demo_exams import Exam, Question, write_exams
from benchmarks.demo_model import bars, lost, measure
from benchmarks.demo_words import OWN_WORDS
from deployments.settings import VisionSettings
from deployments.vision.catalog import model_info
from deployments.vision.demo.answers import UNKNOWN, write
from deployments.vision.demo.layout import Mix
from deployments.vision.demo.prompts import DESCRIBE, QUESTIONS
from deployments.vision.demo.scenes import held_out

pytestmark = pytest.mark.timeout(120)
SETS = {
    "one object": Mix((1.0, 0.0, 0.0), clock=1.0, events=0.0, cut=0.0),
    "two objects": Mix((0.0, 1.0, 0.0), clock=1.0, events=0.0, cut=0.0),
    "a cut inside": Mix(clock=0.5, events=0.0, cut=1.0),
}
KINDS = ("clock", "events", "describe", "other words")


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> list[Exam]:
    return list(write_exams(tmp_path_factory.mktemp("films"), 10, SETS, KINDS))


def right(exam: Exam) -> list[list[str]]:
    return [
        [write(true), *(question.right for question in questions)]
        for true, questions in zip(exam.truths, exam.questions, strict=True)
    ]


def test_the_sets_hold_what_their_names_say(exams: list[Exam]) -> None:
    for exam in exams:
        assert len(exam.film.scenes) == 2
        for scene in exam.film.scenes:
            assert len(scene.shots) == (2 if exam.name == "a cut inside" else 1)
            things = [it for shot in scene.shots for it in shot.things]
            assert all(held_out(it.colour, it.shape, it.motion) for it in things)
            if exam.name != "a cut inside":
                assert len(things) == (1 if exam.name == "one object" else 2)


def test_every_kind_is_asked_as_often_as_a_set_has_scenes(exams: list[Exam]) -> None:
    asked = [question.kind for exam in exams for questions in exam.questions for question in questions]
    of_a_set = dict.fromkeys((*KINDS, "events, a cut inside"), 10)
    assert {kind: asked.count(kind) for kind in asked} == of_a_set | {"events": 20}, "of both sets without a cut"


def test_one_set_is_of_all_combinations(tmp_path: Path) -> None:
    mix = Mix((1.0, 0.0, 0.0), clock=0.0, events=0.0, cut=0.0)
    things = {
        name: [
            it
            for exam in write_exams(tmp_path, 20, {name: mix}, ())
            for scene in exam.film.scenes
            for it in scene.shots[0].things
        ]
        for name in ("one object", "all combinations")
    }
    kept = {name: {held_out(it.colour, it.shape, it.motion) for it in seen} for name, seen in things.items()}
    assert kept["one object"] == {True}
    assert False in kept["all combinations"]


def test_three_objects_are_in_frames_with_room_for_them_and_one_frame_is_one(tmp_path: Path) -> None:
    mix = Mix((0.0, 0.0, 1.0), clock=0.5, events=0.0, cut=0.0)
    written = list(write_exams(tmp_path, 6, {"three objects": mix, "one frame": mix}, ()))
    assert [len(exam.film.scenes) for exam in written] == [2, 2, 2, 3, 3]
    for exam in written:
        if exam.name == "three objects":
            assert all(len(true.shots[0][0]) == 3 for true in exam.truths)
        else:
            assert exam.film.times_s == [0.0]
            assert all(thing.motion is None for true in exam.truths for thing in true.shots[0][0])


def test_other_words_are_none_that_were_trained_with() -> None:
    trained = {prompt.strip(".?!").lower() for prompt in (*DESCRIBE, *chain.from_iterable(QUESTIONS.values()))}
    assert len(set(OWN_WORDS)) == len(OWN_WORDS) == 40
    assert not trained & {prompt.strip(".?!").lower() for prompt in OWN_WORDS}


def test_both_ways_see_the_same_moments(exams: list[Exam]) -> None:
    film, model = exams[0].film, model_info("demo", VisionSettings())
    for clip in film.clips(model):
        assert clip.frames.shape == (film.form.frames, 112, 196, 3)
        assert np.array_equal(clip.pts_s, film.times_s)


def test_the_truth_scores_one_and_loses_nothing(exams: list[Exam]) -> None:
    scores = measure(exams, right)
    for name, row in scores.items():
        error_s = row.pop("clock error, mean s", 0.0)
        assert (set(row.values()), error_s) == ({1.0}, 0.0), name
    parts = {"events, none happen", "events, a cut inside", "other words, the right answer"}
    assert set(scores["questions"]) == {*KINDS, *parts}
    assert all(bar.holds for bar in bars(scores | {"three objects": {}}, scores).values())


def test_other_words_have_a_right_answer_beside_those_that_will_do() -> None:
    question = Question("other words", "Can you see a cat?", UNKNOWN)
    assert dict(question.marks("Red.")) == {"other words": True, "other words, the right answer": False}
    assert set(dict(question.marks(UNKNOWN)).values()) == {True}
    assert set(dict(question.marks("A cat sleeps.")).values()) == {False}


def test_wrong_answers_are_wrong_and_lost(exams: list[Exam]) -> None:
    truth = measure(exams, right)
    scores = measure(exams, lambda exam: [["nothing" for _ in prompts] for prompts in exam.prompts])
    assert set(scores["questions"].values()) == {0.0}
    assert scores["one object"]["exact"] == 0.0
    assert set(lost(truth, scores).values()) == {1.0}
    assert not any(bar.holds for bar in bars(truth, scores).values())
