"""The words the engine asks with: for a description when the caller brings none, and for events."""

import json
from collections.abc import Sequence

MOST_PROMPT_CHARS = 16_384
"""Of what people ask about a clip, by whatever way."""
DEFAULT_PROMPT = "Describe what happens in this video clip."
_EVENTS_OPENING = "List every event of these kinds in the clip: "


def events_prompt(kinds: Sequence[str]) -> str:
    """Return the question for the events of these kinds, answered as JSON: `kinds` holds at least one."""
    names = ", ".join(json.dumps(kind, ensure_ascii=False) for kind in kinds)
    example = json.dumps([{"event": kinds[0], "object": "who or what", "time_s": 3}], ensure_ascii=False)
    return (
        f"{_EVENTS_OPENING}{names}. Answer with a JSON array only, like {example}, "
        "times in seconds from the start of the clip; [] when none happens."
    )


def first_kind(prompt: str) -> str | None:
    """Return the first kind that `events_prompt` made this prompt of, None for any other prompt."""
    if not prompt.startswith(_EVENTS_OPENING):
        return None
    try:
        kind, _ = json.JSONDecoder().raw_decode(prompt, len(_EVENTS_OPENING))
    except ValueError:
        return None  # somebody's own words that begin alike
    return kind if isinstance(kind, str) else None
