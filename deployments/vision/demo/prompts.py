"""The ways the demo model is asked for a caption while it learns, so that no wording matters."""

import numpy as np

from deployments.vision.prompts import DEFAULT_PROMPT

PARAPHRASES = (
    "Describe this video.",
    "Describe the video.",
    "Describe the clip in one sentence.",
    "Describe this image.",
    "Describe the scene.",
    "What happens in this video?",
    "What happens here?",
    "What do you see?",
    "What is shown in this clip?",
    "What is in the picture?",
    "Caption this video.",
    "Write a caption.",
    "Write one sentence about the video clip.",
    "Summarize what happens in the clip.",
    "Tell me what is going on.",
    "Please describe the object, its motion and the background.",
)
# fmt: off
WORDS = (
    "a", "about", "action", "all", "and", "any", "are", "at", "be", "between", "brief", "can", "caption", "clip",
    "colour", "describe", "detail", "do", "each", "event", "every", "explain", "find", "focus", "for", "frame", "from",
    "give", "has", "how", "if", "in", "into", "is", "it", "kindly", "list", "look", "main", "me", "model", "moment",
    "motion", "move", "name", "next", "no", "not", "now", "object", "of", "on", "one", "only", "or", "other", "our",
    "out", "people", "person", "please", "scene", "see", "seconds", "sentence", "shape", "short", "should", "show",
    "simple", "so", "some", "tell", "that", "the", "then", "there", "these", "they", "thing", "this", "time", "to",
    "two", "us", "use", "very", "video", "we", "what", "when", "where", "which", "who", "why", "will", "with", "word",
    "would", "write", "you", "your",
)
# fmt: on


def sample_prompt(rng: np.random.Generator) -> str:
    """Return a prompt that asks for a caption: the default half of the time, else a paraphrase or arbitrary words."""
    kind = rng.random()
    if kind < 0.5:
        return DEFAULT_PROMPT
    if kind < 0.8:
        return str(rng.choice(PARAPHRASES))
    if kind < 0.95:
        words = " ".join(rng.choice(WORDS, int(rng.integers(2, 14))))
        return words.capitalize() + str(rng.choice([".", "?", "", "!"]))
    return "".join(chr(code) for code in rng.integers(32, 0x250, int(rng.integers(1, 12))))
