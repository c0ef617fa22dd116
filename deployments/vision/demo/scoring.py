"""How right answers are: descriptions attribute by attribute and whole, other answers as a whole."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from statistics import fmean

from deployments.vision.demo.answers import Description, Seen, parse, read_events, write


def score_descriptions(truths: Sequence[Description], texts: Sequence[str]) -> dict[str, float]:
    """Return shares of what is right in the descriptions of clips.

    "colour", "shape", "size", "motion", "event": of the true objects, found by their colour; "background": of the
    shots; "count", "clock" (within a second), "clock exact" and "exact" (every word): of the clips, or of those with a
    clock. What no clip has is left out.
    """
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for true, text in zip(truths, texts, strict=True):
        for name, held in [*_checks(true, parse(text)), ("exact", text == write(true))]:
            right[name] += held
            total[name] += 1
    return {name: right[name] / total[name] for name in total}


def clock_error_s(truths: Sequence[Description], texts: Sequence[str]) -> float:
    """Return the mean distance in seconds of the clocks that are told from what they said; 0 where none is told."""
    told = [(true.clock_s, parse(text)) for true, text in zip(truths, texts, strict=True)]
    errors_s = [
        abs(said.clock_s - clock_s)
        for clock_s, said in told
        if clock_s is not None and said is not None and said.clock_s is not None
    ]
    return fmean(errors_s) if errors_s else 0.0


def same_events(said: str, right: str, *, within_s: int) -> bool:
    """Say whether an answer has the events of the right one, in its order, at most so far from their times."""
    told, true = read_events(said), read_events(right)
    if told is None or true is None or len(told) != len(true):
        return False
    return all(
        (one["event"], one.get("object")) == (other["event"], other.get("object"))
        and abs(one["time_s"] - other["time_s"]) <= within_s
        for one, other in zip(told, true, strict=True)
    )


def _checks(true: Description, said: Description | None) -> list[tuple[str, bool]]:
    """Return (figure, whether right) of everything that one description should say."""
    checks = [("cut", said is not None and len(said.shots) == len(true.shots))] if len(true.shots) > 1 else []
    spoken = said.shots if said is not None else ()
    for place, (things, ground) in enumerate(true.shots):
        told, said_ground = spoken[place] if place < len(spoken) else ((), None)
        checks += [("background", said_ground == ground), ("count", len(told) == len(things))]
        checks += chain.from_iterable(_check_thing(thing, told) for thing in things)
    if true.clock_s is not None:
        reading_s = said.clock_s if said is not None else None
        checks += [
            ("clock", reading_s is not None and abs(reading_s - true.clock_s) <= 1),
            ("clock exact", reading_s == true.clock_s),
        ]
    return checks


def _check_thing(thing: Seen, told: Sequence[Seen]) -> list[tuple[str, bool]]:
    same = [seen for seen in told if seen.colour == thing.colour]
    found = same[0] if len(same) == 1 else None
    checks = [
        ("colour", found is not None),
        ("shape", found is not None and found.shape == thing.shape),
        ("size", found is not None and found.size == thing.size),
        (
            "event",
            found is not None and (found.appears, found.disappears) == (thing.appears, thing.disappears),
        ),
    ]
    if thing.motion is not None:
        checks.append(("motion", found is not None and found.motion == thing.motion))
    return checks
