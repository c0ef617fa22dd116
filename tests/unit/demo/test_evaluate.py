"""The evaluation asks what it says it asks, and scores whoever answers."""

from collections.abc import Sequence

from deployments.vision.demo.answers import observe
from deployments.vision.demo.clips import Clip
from deployments.vision.demo.evaluate import description_sets, evaluate_descriptions, evaluate_questions
from deployments.vision.demo.prompts import QUESTIONS
from deployments.vision.demo.scenes import held_out


def tell(clips: Sequence[Clip], prompts: Sequence[str]) -> list[str]:
    return [clip.caption for clip in clips]


def test_the_sets_hold_what_their_names_say() -> None:
    sets = description_sets(6)
    for count, name in enumerate(("one object", "two objects"), start=1):
        for clip in sets[name]:
            things = clip.spec.shots[0].things
            assert len(things) == count
            assert all(held_out(it.colour, it.shape, it.motion) for it in things)
    assert all(len(clip.spec.shots) == 2 and len(clip.frames) == 10 for clip in sets["a cut inside"])
    assert all(observe(clip.spec, clip.times_s.tolist()).clock_s is not None for clip in sets["a clock"])


def test_the_truth_scores_one() -> None:
    for name, figures in evaluate_descriptions(tell, 4).items():
        assert set(figures.values()) == {1.0}, name


def test_a_description_answers_no_question() -> None:
    assert evaluate_questions(tell, 3) == dict.fromkeys((*QUESTIONS, "unknown"), 0.0)
