"""Are answers right, found quickly, and passed on without delay? `make bench-chat`.

questions   Films of drawn scenes through the running app, described by the demo model; each question asks when
            something is seen that is in one scene alone, and `extractive` answers. What it cites first is right
            where it overlaps that scene. Others ask how many objects there are at a moment, which no caption says:
            the answer is that of a second look at the frames.
retrieval   Scenes of 12 hours, described as they are; each question names a scene's objects.
first words The time to the first word of a streamed answer, by the official client: from a stub of a cloud model
            directly, and by way of the app, in turns.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI

from benchmarks.demo_pipeline import Film, Format, write_film
from benchmarks.results_file import Bar, table, write_result
from benchmarks.service import START_DEADLINE_S, Service, running
from benchmarks.stub_upstream import stub_upstream
from deployments.vision.demo.answers import NUMBERS, truth
from deployments.vision.demo.layout import Mix, sample_spec
from deployments.vision.demo.scenes import SceneSpec, Thing
from pipelines.retrieval import Entry, Retriever

_FORM = Format((640, 360), crf=23, scene_s=8.0, frames=8)
_MIX = Mix((0.5, 0.5, 0.0), clock=0.0, events=0.0, cut=0.0)
_HOURS, _CLIP_S = 12, 10.0
_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    scene: int


def questions_of(film: Film) -> list[Question]:
    """Ask for each object whose size, colour and shape are seen in one of the film's scenes alone."""
    things = [(at, thing) for at, scene in enumerate(film.scenes) for thing in scene.shots[0].things]
    seen = Counter(_kind(thing) for _, thing in things)
    return [Question(f"When is there a {_kind(thing)}?", at) for at, thing in things if seen[_kind(thing)] == 1]


def _kind(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}"


def ask_about_films(films: int, scenes: int, questions: int, looks: int) -> tuple[dict[str, float], dict[str, float]]:
    """Have films described by the demo model and ask about them; return the shares of right answers, and of looks."""
    took_s: list[float] = []
    looked_right: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="vidray-chat-") as folder, running(Path(folder), _demo_args()) as service:
        asked = first_right = any_right = cited_all = outside = 0
        for seed in range(films):
            film = write_film(Path(folder), _FORM, scenes, _MIX, seed, "all")
            clips = _described(service, film)
            some = questions_of(film)[: questions // films]
            for question in some:
                citations = _citations(service, clips["analysis_id"], question.text)
                ranges = {(clip["start_s"], clip["end_s"]) for clip in clips["clips"] if "text" in clip}
                outside += sum((one["start_s"], one["end_s"]) not in ranges for one in citations)
                right = [_overlaps(one, question.scene) for one in citations]
                first_right += right[:1] == [True]
                any_right += any(right)
                cited_all += len(right)
            asked += len(some)
            for scene in range(min(looks // films, scenes)):
                begun_s = time.perf_counter()
                looked_right.append(
                    _counted(service, clips["analysis_id"], scene) == len(film.scenes[scene].shots[0].things)
                )
                took_s.append(time.perf_counter() - begun_s)
    second_looks = {
        "questions": len(looked_right),
        "right, share": sum(looked_right) / len(looked_right),
        "an answer, median, s": statistics.median(took_s),
        "an answer, slowest, s": max(took_s),
    }
    return {
        "questions": asked,
        "first citation right, share": first_right / asked,
        "a citation right, share": any_right / asked,
        "citations for each question": cited_all / asked,
        "citations outside described clips": outside,
    }, second_looks


def _demo_args() -> dict[str, Any]:
    demo = {"engine": "transformers", "checkpoint": "demo", "dtype": "fp32", "device": "cpu"}
    return {"default_model": "demo", "models": {"demo": demo}}


def _described(service: Service, film: Film) -> dict[str, Any]:
    options = {"clip_duration_s": film.form.scene_s, "frames_per_clip": film.form.frames}
    body = {"file_id": service.upload(film.path)} | options
    here = f"/v1/analyses/{service.ask('POST', '/v1/analyses', json=body)['id']}"
    service.finished(here, deadline_s=_DEADLINE_S)
    result: dict[str, Any] = service.ask("GET", f"{here}/result")
    return result


def _citations(service: Service, analysis_id: str, question: str) -> list[dict[str, Any]]:
    body = {"analysis_id": analysis_id, "messages": [{"role": "user", "content": question}]}
    citations: list[dict[str, Any]] = service.ask("POST", "/v1/chat/completions", json=body)["citations"]
    return citations


def _counted(service: Service, analysis_id: str, scene: int) -> int | None:
    """Return how many objects a second look at the scene's middle finds; None where there was none or no number."""
    minutes, seconds = divmod(int((scene + 0.5) * _FORM.scene_s), 60)
    question = f"How many objects are there at {minutes}:{seconds:02}?"
    body = {"analysis_id": analysis_id, "messages": [{"role": "user", "content": question}]}
    answer = service.ask("POST", "/v1/chat/completions", json=body)
    if not answer["looked_again"]:
        return None
    said = answer["choices"][0]["message"]["content"].splitlines()[0].split("(looked at again) ")[-1]
    return NUMBERS.index(said) if said in NUMBERS else None


def _overlaps(citation: dict[str, Any], scene: int) -> bool:
    start_s = scene * _FORM.scene_s
    return bool(citation["start_s"] < start_s + _FORM.scene_s and citation["end_s"] > start_s)


def search(questions: int) -> dict[str, float]:
    """Search the true descriptions of 12 hours of drawn scenes for scenes of two objects or three."""
    rng = np.random.default_rng(0)
    count = round(_HOURS * 3600 / _CLIP_S)
    scenes = [sample_spec(rng, duration_s=_CLIP_S, mix=Mix(clock=0.0), combinations="all") for _ in range(count)]
    times_s = list(np.arange(_CLIP_S))
    begun_s = time.perf_counter()
    entries = [Entry(at, _CLIP_S * at, _CLIP_S * (at + 1), truth(scene, times_s)) for at, scene in enumerate(scenes)]
    drawn_s = time.perf_counter()
    retriever = Retriever(entries, _CLIP_S * count)
    built_s = time.perf_counter()
    several = [at for at, scene in enumerate(scenes) if len(scene.shots) == 1 and len(scene.shots[0].things) > 1]
    took_s, top = [], []
    for at in rng.choice(several, questions, replace=False):
        question = _about(scenes[at])
        asked_s = time.perf_counter()
        found = [one.entry.clip for one in retriever.find([question], 3)]
        took_s.append(time.perf_counter() - asked_s)
        top.append(found.index(at) + 1 if at in found else 0)
    return {
        "clips": count,
        "questions": questions,
        "among the first 3, share": sum(place > 0 for place in top) / questions,
        "first, share": sum(place == 1 for place in top) / questions,
        "a question, median, ms": statistics.median(took_s) * 1e3,
        "a question, slowest, ms": max(took_s) * 1e3,
        "index, s": built_s - drawn_s,
        "drawing the descriptions, s": drawn_s - begun_s,
    }


def _about(scene: SceneSpec) -> str:
    shot = scene.shots[0]
    things = " and ".join(
        f"a {_kind(thing)} that " + ("stays still" if thing.motion == "still" else f"moves {thing.motion}")
        for thing in shot.things
    )
    return f"When is there {things}, and the background is {shot.background}?"


def first_words(rounds: int) -> dict[str, float]:
    """Measure the way to the first word, directly and by way of the app, in turns; in milliseconds."""
    with (
        tempfile.TemporaryDirectory(prefix="vidray-chat-") as folder,
        stub_upstream(text="A few words that come one by one.", piece_s=0.01) as stub,
        running(Path(folder), _cloud_args(stub.url)) as service,
    ):
        service.ask("GET", "/v1/models")
        with _client(stub.url) as direct, _client(f"{service.url}/v1") as app:
            took: dict[str, list[float]] = {"directly": [], "by way of the app": []}
            for number in range(-5, rounds):  # the first ones warm it up
                for name, client, model in (("directly", direct, "stub"), ("by way of the app", app, "cloud")):
                    seconds = _first_word_s(client, model, f"{number}?")
                    if number >= 0:
                        took[name].append(1e3 * seconds)
    medians = {f"first word {name}, median, ms": statistics.median(some) for name, some in took.items()}
    added = medians["first word by way of the app, median, ms"] - medians["first word directly, median, ms"]
    return medians | {"rounds": rounds, "added, median, ms": added}


def _cloud_args(url: str) -> dict[str, Any]:
    cloud = {"provider": "litellm", "upstreams": [{"model": "openai/stub", "api_base": url}], "cached_answers": 0}
    simulated = {"models": {"sim": {"engine": "simulated"}}, "default_model": "sim"}
    return simulated | {"chat": {"models": {"cloud": cloud}, "default_model": "cloud"}}


@contextmanager
def _client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=START_DEADLINE_S) as client:
        yield client


def _first_word_s(client: OpenAI, model: str, question: str) -> float:
    begun_s = time.perf_counter()
    stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], stream=True)
    first_s = None
    for chunk in stream:
        if first_s is None and chunk.choices and chunk.choices[0].delta.content:
            first_s = time.perf_counter() - begun_s
    if first_s is None:
        raise RuntimeError("expected an answer with words, got none")
    return first_s


def main() -> None:
    """Measure all three, print the table, write benchmarks/results/chat.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=24, help="in each film")
    parser.add_argument("--questions", type=int, default=204)
    parser.add_argument("--looks", type=int, default=60, help="questions for a second look")
    parser.add_argument("--rounds", type=int, default=60, help="of first words")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    found, words = search(args.questions), first_words(args.rounds)
    told, looked = ask_about_films(args.films, args.scenes, args.questions, args.looks)
    figures = {"retrieval": found, "first words": words, "questions": told, "second looks": looked}
    bars = {
        f"chat, {told['questions']} questions about drawn films: what is cited first is right": Bar(
            told["first citation right, share"], 0.95, "share"
        ),
        "chat: citations outside described clips": Bar(
            told["citations outside described clips"], 0.0, "citations", "lower"
        ),
        f"chat, {looked['questions']} questions that no caption answers: a second look is right": Bar(
            looked["right, share"], 0.95, "share"
        ),
        f"retrieval over {_HOURS} h: right clip among the first 3": Bar(
            found["among the first 3, share"], 0.95, "share"
        ),
        f"retrieval over {_HOURS} h: slowest question": Bar(found["a question, slowest, ms"], 50.0, "ms", "lower"),
        "chat: first word later than directly from the model, median": Bar(
            words["added, median, ms"], 30.0, "ms", "lower"
        ),
    }
    if args.dry_run:
        print(table(figures, bars))
        return
    shape = (
        f"{args.films} films of {args.scenes} scenes of {_FORM.scene_s:g} s; {_HOURS} h of clips of {_CLIP_S:g} s; "
        f"{args.rounds} streamed answers"
    )
    write_result("chat", figures, bars, model="demo", shape=shape)


if __name__ == "__main__":
    main()
