"""What the demo model is asked while it learns, and the true answer to each question."""

from collections.abc import Sequence

import numpy as np

from deployments.vision.demo import answers
from deployments.vision.demo.answers import Description
from deployments.vision.demo.scenes import COLOURS, SHAPES, SceneSpec
from deployments.vision.prompts import DEFAULT_PROMPT, events_prompt

DESCRIBE = (
    "Describe this video.",
    "Describe the video.",
    "Describe the clip.",
    "Describe this image.",
    "Describe the scene.",
    "Describe this frame.",
    "What happens in this video?",
    "What happens here?",
    "What do you see?",
    "What is shown in this clip?",
    "What is in the picture?",
    "Caption this video.",
    "Write a caption.",
    "Write down what the video clip shows.",
    "Summarize what happens in the clip.",
    "Tell me what is going on.",
    "Please describe the objects, their motion and the background.",
)
QUESTIONS: dict[str, tuple[str, ...]] = {
    "count": ("How many objects are there?", "How many objects do you see?", "Count the objects."),
    "background": ("What is the background?", "Which background is it?", "What does the background look like?"),
    "clock": ("What does the clock say?", "What time is it?", "Read the clock.", "What time does the clock show?"),
    "shape": ("What shape is the {colour} object?", "Which shape is {colour}?", "What is the {colour} object?"),
    "colour": ("What colour is the {shape}?", "Which colour has the {shape}?", "What color is the {shape}?"),
    "direction": ("Where does the {colour} object move?", "Which direction does the {colour} object move?"),
    "events": (
        "List the events as JSON.",
        "Which objects appear or disappear? Answer as JSON.",
        "Give me all events with their times as JSON.",
    ),
}
"""The questions of each kind; {colour} and {shape} stand for what is asked about."""
_ASKED = (*QUESTIONS, "colour", "colour", "direction", "events", "events", "unknown")
_ASKED_ACROSS_A_CUT = ("clock", "events", "events", "unknown")
"""What is asked beside the description; what is harder to learn comes more often."""
_TOPICS = (
    "the president", "the capital of France", "the weather", "the best film", "your name", "the price of gold",
    "the next train", "the meaning of life", "the largest city", "this song", "the mayor", "the score", "my phone",
)  # fmt: skip
_OPENINGS = (
    "Who is",
    "What is",
    "Where is",
    "When was",
    "Why is",
    "How old is",
    "How far is",
    "Do you like",
    "Can I buy",
)
# fmt: off
WORDS = (
    "a", "about", "action", "all", "and", "any", "are", "at", "be", "between", "brief", "can", "caption", "clip",
    "describe", "detail", "do", "each", "every", "explain", "find", "focus", "for", "frame", "from", "give", "has",
    "how", "if", "in", "into", "is", "it", "kindly", "list", "look", "main", "me", "model", "moment", "motion", "move",
    "name", "next", "no", "not", "now", "object", "of", "on", "one", "only", "or", "other", "our", "out", "people",
    "person", "please", "scene", "see", "seconds", "sentence", "short", "should", "show", "simple", "so", "some",
    "tell", "that", "the", "then", "there", "these", "they", "thing", "this", "to", "two", "us", "use", "very", "video",
    "we", "what", "when", "where", "which", "who", "why", "will", "with", "word", "would", "write", "you", "your",
)
# fmt: on


def sample_description_prompt(rng: np.random.Generator) -> str:
    """Return a prompt that gets a description: the default one half of the time, else a paraphrase or any request.

    A request is anything that does not end with a question mark.
    """
    kind = rng.random()
    if kind < 0.5:
        return DEFAULT_PROMPT
    if kind < 0.85:
        return str(rng.choice(DESCRIBE))
    if kind < 0.96:
        words = " ".join(rng.choice(WORDS, int(rng.integers(2, 14))))
        return words.capitalize() + str(rng.choice([".", "", "!"]))
    return "".join(chr(code) for code in rng.integers(0x100, 0x250, int(rng.integers(1, 12))))


def sample_unknown_prompt(rng: np.random.Generator) -> str:
    """Return a question about something else, or one of no meaning."""
    if rng.random() < 0.6:
        return f"{rng.choice(_OPENINGS)} {rng.choice(_TOPICS)}?"
    return " ".join(rng.choice(WORDS, int(rng.integers(2, 10)))).capitalize() + "?"


def sample_question(
    rng: np.random.Generator, spec: SceneSpec, times_s: Sequence[float], kind: str | None = None
) -> tuple[str, str, str]:
    """Return a kind of question, a question of that kind and its true answer for the scene as seen at `times_s`.

    `kind` is one of QUESTIONS, "describe" or "unknown"; None takes any but "describe" that makes sense: clips with a
    cut are asked for their clock and their events only. One question in four or so is about something absent.
    """
    seen = answers.observe(spec, times_s)
    if kind is None:
        kind = str(rng.choice(_ASKED_ACROSS_A_CUT if len(seen.shots) > 1 else _ASKED))
    if kind == "describe":
        return kind, sample_description_prompt(rng), answers.write(seen)
    if kind == "unknown":
        return kind, sample_unknown_prompt(rng), answers.UNKNOWN
    if kind == "events" and rng.random() < 0.5:
        # As analyses ask: for some kinds, in any order.
        kinds = [str(one) for one in rng.permutation(answers.EVENT_KINDS)[: int(rng.integers(1, 4))]]
        return kind, events_prompt(kinds), answers.events(spec, times_s, kinds)
    prompt = str(rng.choice(QUESTIONS[kind]))
    if kind == "events":
        return kind, prompt, answers.events(spec, times_s)
    if kind in ("count", "background", "clock"):
        return (
            kind,
            prompt,
            {"count": answers.count, "background": answers.background, "clock": answers.clock}[kind](seen),
        )
    if kind == "colour":
        shape = _pick(rng, _single_shapes(seen), [s for s in SHAPES if all(t.shape != s for t in seen.shots[0][0])])
        return kind, prompt.format(shape=shape), answers.colour_of(seen, shape)
    colours = [thing.colour for thing in seen.shots[0][0]]
    colour = _pick(rng, colours, [name for name in COLOURS if name not in colours])
    answer = answers.shape_of if kind == "shape" else answers.direction_of
    return kind, prompt.format(colour=colour), answer(seen, colour)


def _single_shapes(seen: Description) -> list[str]:
    shapes = [thing.shape for thing in seen.shots[0][0]]
    return [shape for shape in shapes if shapes.count(shape) == 1]


def _pick(rng: np.random.Generator, present: list[str], absent: list[str]) -> str:
    """Return one of the names that are there, three times in four, else one that is not."""
    return str(rng.choice(present if present and (rng.random() < 0.75 or not absent) else absent))
