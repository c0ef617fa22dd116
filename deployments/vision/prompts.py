"""The words the engine asks with: for a description when the caller brings none, and for events."""

import json
from collections.abc import Sequence

DEFAULT_PROMPT = "Describe what happens in this video clip."


def events_prompt(kinds: Sequence[str]) -> str:
    """Return the question for the events of these kinds, answered as JSON: `kinds` holds at least one."""
    names = ", ".join(json.dumps(kind, ensure_ascii=False) for kind in kinds)
    example = json.dumps([{"event": kinds[0], "object": "who or what", "time_s": 3}], ensure_ascii=False)
    return (
        f"List every event of these kinds in the clip: {names}. Answer with a JSON array only, like {example}, "
        "times in seconds from the start of the clip; [] when none happens."
    )
