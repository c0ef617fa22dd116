"""What the demo checkpoint is asked: films of scenes to describe, and questions with the only right answers."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.demo_pipeline import FORMATS, Film, Format, write_film
from benchmarks.demo_words import OWN_WORDS
from deployments.vision.demo.answers import NO_EVENTS, UNKNOWN, Description, is_answer, observe, write
from deployments.vision.demo.layout import ASPECT_FOR_THREE, Mix
from deployments.vision.demo.prompts import QUESTIONS, sample_question
from deployments.vision.demo.scenes import SceneSpec
from deployments.vision.demo.scoring import same_events
from deployments.vision.prompts import DEFAULT_PROMPT

UNCUT = {
    "one object": Mix((1.0, 0.0, 0.0), clock=0.5, events=0.3, cut=0.0),
    "two objects": Mix((0.0, 1.0, 0.0), clock=0.5, events=0.3, cut=0.0),
    "three objects": Mix((0.0, 0.0, 1.0), clock=0.5, events=0.3, cut=0.0),
}
_CUT, _ONE_FRAME, _ALL_COMBINATIONS = "a cut inside", "one frame", "all combinations"
SETS = UNCUT | {
    _CUT: Mix(clock=0.5, events=0.0, cut=1.0),
    _ONE_FRAME: Mix(clock=0.5, events=0.0, cut=0.0),
    _ALL_COMBINATIONS: Mix((0.4, 0.4, 0.2), clock=0.5, events=0.3, cut=0.0),
}
_FORMATS_OF = {
    "three objects": tuple(form for form in FORMATS if form.size[0] / form.size[1] >= ASPECT_FOR_THREE),
    _ONE_FRAME: tuple(Format(size, crf=23, scene_s=2.0, frames=1) for size in ((640, 360), (360, 640))),
}
"""Of the sets that are not of every format."""
_OWN_WORDS, _EVENTS, _EVENTS_ACROSS_A_CUT = "other words", "events", f"events, {_CUT}"
_KINDS = (*QUESTIONS, "unknown", "describe", _OWN_WORDS)


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the kind, and the right answer."""

    kind: str
    prompt: str
    right: str

    def marks(self, said: str) -> Iterator[tuple[str, bool]]:
        """Yield (figure, whether right): of the kind, and of its parts where it is about events.

        In words of people's own any answer will do that the model has words for; the right one is a figure by itself.
        """
        held = said == self.right
        if self.kind == _OWN_WORDS:
            yield _OWN_WORDS, is_answer(said)
            yield f"{_OWN_WORDS}, the right answer", held
            return
        yield self.kind, held
        if self.kind != _EVENTS:
            return
        if self.right == NO_EVENTS:
            yield "events, none happen", held
        else:
            yield "events, some happen", held
            yield "events, within a second", same_events(said, self.right, within_s=1)


@dataclass(frozen=True, slots=True)
class Exam:
    """A film of scenes to describe, and the further questions about each scene."""

    name: str
    film: Film
    questions: list[list[Question]]

    @property
    def truths(self) -> list[Description]:
        return [observe(scene, self.film.times_s) for scene in self.film.scenes]

    @property
    def prompts(self) -> list[list[str]]:
        return [[DEFAULT_PROMPT, *(question.prompt for question in some)] for some in self.questions]


def write_exams(folder: Path, scenes: int, sets: dict[str, Mix], kinds: tuple[str, ...] = _KINDS) -> Iterator[Exam]:
    """Write every set's `scenes` scenes as one film of each format in `folder`.

    Its objects are of combinations never trained on, but for one set. Questions are asked about one film of each
    format: about as many scenes as a set has, of the sets in turn. About events every scene with a cut is asked, too,
    and every one with more than one frame and no cut, for something happens in few.
    """
    formats = {name: _FORMATS_OF.get(name, FORMATS) for name in sets}
    forms = [(name, form) for name in sets for form in formats[name]]
    seeds = {name: seed for seed, name in enumerate(sets, start=101)}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        films = pool.map(
            write_film,
            repeat(folder),
            [form for _, form in forms],
            [-(-scenes // len(formats[name])) for name, _ in forms],
            [sets[name] for name, _ in forms],
            [seeds[name] for name, _ in forms],
            ["all" if name == _ALL_COMBINATIONS else "held_out" for name, _ in forms],
        )
        uncut = [name for name in sets if name in UNCUT]
        for (name, form), film in zip(forms, films, strict=True):
            asked: tuple[str, ...] = ()
            if name in uncut and uncut[FORMATS.index(form) % len(uncut)] == name:
                asked = kinds
            elif _EVENTS in kinds and name in (*uncut, _CUT):
                asked = (_EVENTS_ACROSS_A_CUT if name == _CUT else _EVENTS,)
            rng = np.random.default_rng([*form.size, 1])
            yield Exam(name, film, [[_question(rng, film, scene, kind) for kind in asked] for scene in film.scenes])


def _question(rng: np.random.Generator, film: Film, scene: SceneSpec, kind: str) -> Question:
    if kind == _OWN_WORDS:
        prompt = str(rng.choice(OWN_WORDS))
        return Question(kind, prompt, UNKNOWN if prompt.endswith("?") else write(observe(scene, film.times_s)))
    known = _EVENTS if kind == _EVENTS_ACROSS_A_CUT else kind
    _, prompt, right = sample_question(rng, scene, film.times_s, known)
    return Question(kind, prompt, right)
