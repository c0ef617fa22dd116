"""A story told in parts, whose every sentence goes back to clips."""

import asyncio
import re
from collections.abc import AsyncGenerator

import pytest

from deployments.chat.citations import Citation, mark
from deployments.chat.contracts import ChatRequest, Passage, Piece, Usage
from deployments.chat.story import MOST_SENTENCES, Story, tell
from deployments.errors import UpstreamFailed

MOST_CHARS = 8_000


def passages(count: int, chars: int = 100) -> list[Passage]:
    return [
        Passage(mark(10.0 * at, 10.0 * at + 10.0), "ana_1", at, 10.0 * at, 10.0 * at + 10.0, f"{at} ".ljust(chars, "x"))
        for at in range(count)
    ]


class Teller:
    """Says of each part what its first and last passage are, one a line, as `form` has it."""

    kind = "made up"
    leaves_premises = False

    def __init__(self, form: str = "- It goes from {first} to {last}.") -> None:
        self.form = form
        self.asked: list[ChatRequest] = []

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self.asked.append(request)
        await asyncio.sleep(0)
        first, last = request.passages[0].mark, request.passages[-1].mark
        yield Piece(self.form.format(first=first, last=last))
        yield Piece(finish_reason="stop", usage=Usage(100, 10, 0.5), served_by="stub", attempts=1)


def told(teller: Teller, some: list[Passage]) -> Story:
    story = Story()
    asyncio.run(tell(story, some, teller, most_chars=MOST_CHARS))
    return story


def test_a_short_video_is_told_in_one_call() -> None:
    teller = Teller()
    story = told(teller, passages(3))
    [sentence] = story.sentences
    assert sentence.text == "It goes from to."
    assert sentence.citations == (Citation("ana_1", 0, 0.0, 10.0), Citation("ana_1", 2, 20.0, 30.0))
    assert (story.calls, story.dropped, story.served_by) == (1, 0, "stub")
    assert story.usage == Usage(100, 10, 0.5)


@pytest.mark.parametrize("count", [200, 5000])
def test_a_long_one_is_told_in_parts_that_fit_and_goes_back_to_its_clips(count: int) -> None:
    teller = Teller()
    story = told(teller, passages(count))
    for request in teller.asked:
        assert sum(len(passage.text) for passage in request.passages) <= MOST_CHARS
    assert story.calls == len(teller.asked) > count * 100 / MOST_CHARS
    [sentence] = story.sentences
    clips = [citation.clip for citation in sentence.citations]
    assert clips[0] == 0
    assert set(clips) <= set(range(count))
    assert all(citation.end_s - citation.start_s == 10.0 for citation in sentence.citations), "clips, not stretches"
    first_level = [request for request in teller.asked if request.passages[0].text[0].isdigit()]
    assert sorted(int(one.text.split()[0]) for request in first_level for one in request.passages) == [*range(count)]


def test_what_has_no_place_is_dropped_and_counted() -> None:
    story = told(Teller("{first} A dog.\nA cat.\n\n2. A bird [9:00-9:10].\n* A cow {last}"), passages(2))
    assert [sentence.text for sentence in story.sentences] == ["A dog.", "A cow"]
    assert story.dropped == 2


def test_a_model_that_says_too_much_is_cut() -> None:
    form = "\n".join(["Again. {first}"] * 20 + ["x" * 1000 + " {first}"])
    story = told(Teller(form), passages(1))
    assert len(story.sentences) == MOST_SENTENCES
    assert story.dropped == 13


def test_one_huge_caption_fits_too() -> None:
    teller = Teller()
    told(teller, passages(30, chars=50_000))
    assert max(sum(len(one.text) for one in request.passages) for request in teller.asked) <= MOST_CHARS


def test_without_captions_nothing_is_asked() -> None:
    teller = Teller()
    assert told(teller, []) == Story()
    assert teller.asked == []


class Failing(Teller):
    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self.asked.append(request)
        if len(self.asked) == 3:
            raise UpstreamFailed("expected an answer, got none")
        async for piece in super().answer(request):
            yield piece


def test_a_failure_of_one_part_is_the_failure_of_all() -> None:
    with pytest.raises(UpstreamFailed):
        told(Failing(), passages(1000))


def test_what_is_asked_says_how_to_cite() -> None:
    teller = Teller()
    told(teller, passages(1))
    [request] = teller.asked
    assert re.search(r"at most \d+ sentences", request.turns[0].text)
