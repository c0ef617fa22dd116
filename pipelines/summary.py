"""A summary that quotes: the captions that say most of what the video's parts are about, each with its place.

No model is asked and no word is made up. The described clips are cut into at most `most` runs of equal length, and from
each the caption is quoted that is nearest to what sets its run apart: the centroid method of Radev et al.,
"Centroid-based summarization of multiple documents" (2004). A word w of run r weighs

    weight(w, r) = captions of r with w / captions of r * log(1 + runs / runs with w)

and a caption scores the sum of its distinct words' weights over the square root of their number. The first of the best
wins, so that the same captions give the same summary. Linear in the captions.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pipelines.outcome import ClipOutcome

MOST_PASSAGES = 8
_WORD = re.compile(r"\w+")


def summary_of(outcomes: Sequence[ClipOutcome], *, most: int = MOST_PASSAGES) -> dict[str, Any]:
    """Return the passages and what they cannot speak of, in the order of the outcomes, which is that of the video.

    A passage is a caption with its citations, the clip's index and seconds; what is said again by the next run is one
    passage with both. `not_described` names the ranges of clips that failed, and why.
    """
    described = [(outcome, outcome.text) for outcome in outcomes if outcome.text]
    runs = _runs(described, most)
    words = [[set(_WORD.findall(text.lower())) for _, text in run] for run in runs]
    within = [Counter(word for one in run for word in one) for run in words]
    across = Counter(word for counts in within for word in counts)
    passages: list[dict[str, Any]] = []
    for run, run_words, counts in zip(runs, words, within, strict=True):
        scores = [_score(one, counts, len(run), across, len(runs)) for one in run_words]
        outcome, text = run[scores.index(max(scores))]
        citation = {"clip": outcome.index, "start_s": outcome.start_s, "end_s": outcome.end_s}
        if passages and passages[-1]["text"] == text:
            passages[-1]["citations"].append(citation)
        else:
            passages.append({"text": text, "citations": [citation]})
    return {"by": "extractive", "passages": passages, "not_described": not_described(outcomes)}


def _runs(described: list[tuple[ClipOutcome, str]], most: int) -> list[list[tuple[ClipOutcome, str]]]:
    count = min(most, len(described))
    bounds = [number * len(described) // count for number in range(count + 1)] if count else []
    return [described[start:end] for start, end in pairwise(bounds)]


def _score(words: set[str], within: Counter[str], captions: int, across: Counter[str], runs: int) -> float:
    # In a fixed order: the sum of floats depends on it, and a set's order on the process.
    weights = (within[word] / captions * math.log1p(runs / across[word]) for word in sorted(words))
    return sum(weights) / math.sqrt(len(words) or 1)


def not_described(outcomes: Sequence[ClipOutcome]) -> list[dict[str, Any]]:
    """Return the ranges of neighbouring clips that failed, and why, in the order of the outcomes."""
    ranges: list[dict[str, Any]] = []
    before: str | None = None
    for outcome in outcomes:
        code = None if outcome.error is None else outcome.error.code
        if code is not None and code == before:
            ranges[-1]["end_s"] = outcome.end_s
        elif code is not None:
            ranges.append({"start_s": outcome.start_s, "end_s": outcome.end_s, "code": code})
        before = code
    return ranges
