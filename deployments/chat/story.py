"""Tell what happens in a video by a language model, however long the video is: map-reduce over what was seen.

The passages are cut, in order, into parts that fit the model; each is told in a few sentences; these are told again in
the same way until one part holds them all. A sentence stands only with the places that the model gives for it, and only
those count that are among what it was shown: what has none is dropped and counted. Through all levels a sentence keeps
the clips that it goes back to.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from deployments.chat.citations import MARK, Citation, cited, mark
from deployments.chat.contracts import ChatOptions, ChatRequest, Passage, Provider, Usage
from deployments.contracts import Turn
from deployments.errors import AppError

MOST_SENTENCES = 8
"""Of a part, and so of the whole."""
_MOST_SENTENCE_CHARS = 400
_MOST_PASSAGE_CHARS = 2000
_PARTS_AT_ONCE = 4
_MOST_CITATIONS = 8
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_ASKED = f"""\
Tell what happens in this part of the video in at most {MOST_SENTENCES} sentences, in the order of time, one a line. \
Leave out what is not there to be seen. End each line with the places that it is taken from."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the model says, and the described clips that it goes back to."""

    text: str
    citations: tuple[Citation, ...]


@dataclass(slots=True)
class Story:
    """The told story, and what it took: `dropped` sentences had no place, `usage` is of all calls together."""

    sentences: list[Sentence] = field(default_factory=list)
    dropped: int = 0
    calls: int = 0
    served_by: str | None = None
    usage: Usage = field(default_factory=Usage)


_Level = list[tuple[Passage, tuple[Citation, ...]]]
"""Passages, each with the clips that it goes back to."""


async def tell(
    story: Story,
    passages: Sequence[Passage],
    provider: Provider,
    *,
    most_chars: int,
    on_told: Callable[[], None] = lambda: None,
) -> None:
    """Tell the passages of one video; `most_chars` of them, at least 8,000, go into one call, `on_told` hears of each.

    Raises what the provider raises; the calls that were answered until then are in the story's usage.
    """
    at_once = asyncio.Semaphore(_PARTS_AT_ONCE)

    async def told(part: _Level) -> list[Sentence]:
        async with at_once:
            sentences = await _told(part, provider, story)
            on_told()
            return sentences

    level: _Level = [
        (
            replace(one, text=one.text[:_MOST_PASSAGE_CHARS]),
            (Citation(one.analysis_id, one.clip, one.start_s, one.end_s),),
        )
        for one in passages
    ]
    while level:
        parts = _parts(level, most_chars)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(told(part)) for part in parts]
        except* AppError as failed:
            raise failed.exceptions[0] from None
        story.sentences = [sentence for task in tasks for sentence in task.result()]
        if len(parts) == 1:
            break
        level = [_again(sentence) for sentence in story.sentences]


def _parts(level: _Level, most_chars: int) -> list[_Level]:
    parts: list[_Level] = []
    room = 0
    for passage, sources in level:
        size = len(passage.text) + len(passage.mark)
        if size > room:
            parts.append([])
            room = most_chars
        parts[-1].append((passage, sources))
        room -= size
    return parts


async def _told(part: _Level, provider: Provider, story: Story) -> list[Sentence]:
    # Each is known by its place in the part, so that a sentence's citations lead back to its own sources.
    passages = [
        Passage(one.mark, one.analysis_id, number, one.start_s, one.end_s, one.text)
        for number, (one, _) in enumerate(part)
    ]
    request = ChatRequest(
        (Turn("user", _ASKED),), (passages[0].analysis_id,), tuple(passages), options=ChatOptions(temperature=0.0)
    )
    text = ""
    async for piece in provider.answer(request):
        text += piece.text
        if piece.finish_reason is not None:
            story.calls += piece.attempts
            story.served_by = piece.served_by
            story.usage = _sum(story.usage, piece.usage or Usage())
    sentences = []
    for line in filter(None, (_BULLET.sub("", line).strip() for line in text.splitlines())):
        found = cited(line, passages)
        bare = " ".join(MARK.sub("", line).split()).replace(" .", ".")[:_MOST_SENTENCE_CHARS]
        if found.citations and bare:
            sources = dict.fromkeys(source for one in found.citations for source in part[one.clip][1])
            sentences.append(Sentence(bare, tuple(sources)[:_MOST_CITATIONS]))
        else:
            story.dropped += 1
    story.dropped += len(sentences[MOST_SENTENCES:])
    return sentences[:MOST_SENTENCES]


def _again(sentence: Sentence) -> tuple[Passage, tuple[Citation, ...]]:
    first = min(sentence.citations, key=lambda one: one.start_s)
    last = max(sentence.citations, key=lambda one: one.end_s)
    place = mark(first.start_s, last.end_s)
    return (
        Passage(place, first.analysis_id, first.clip, first.start_s, last.end_s, sentence.text),
        sentence.citations,
    )


def _sum(one: Usage, other: Usage) -> Usage:
    usd = None if one.usd is None or other.usd is None else one.usd + other.usd
    return Usage(one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens, usd)
