"""Which clips a question is about."""

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.retrieval import Entry, Retriever, asks_for_all

TEXTS = [
    "A large red star moves right on a dark background.",
    "A small blue circle stays still.",
    "A green square appears. A red circle moves left.",
    "A small blue circle stays still.",
    "",
]
TIMELINE = Retriever([Entry(at, 10.0 * at, 10.0 * at + 10.0, text) for at, text in enumerate(TEXTS)], 50.0)


def clips(*questions: str, most: int = 10) -> list[int]:
    return [found.entry.clip for found in TIMELINE.find(questions, most)]


def test_the_clip_that_says_most_of_it_comes_first() -> None:
    assert clips("Where is the red star?")[0] == 0
    assert clips("When does the red circle move?")[0] == 2
    assert clips("a GREEN thing that appeared")[0] == 2, "words count by their stem, however they are written"


def test_of_equal_clips_the_earlier_one_comes_first_and_both_are_found() -> None:
    assert clips("the small blue circle")[:2] == [1, 3]
    assert clips("the small blue circle", most=1) == [1]


def test_what_is_not_in_the_timeline_is_not_found() -> None:
    assert clips("Is there an elephant?") == []
    assert clips("what is the and of it") == []
    assert clips("") == []


def test_a_named_time_comes_before_all_words() -> None:
    assert clips("What about the red star at 0:15?") == [1]
    assert clips("What is there between 0:05 and 0:25?") == [0, 1, 2]
    assert clips("Is there a circle in the first 30 seconds?") == [1, 2, 0], "in there the words say what is first"
    assert clips("What happens at 0:10?") == [1], "a clip ends where the next one begins"


def test_a_time_beyond_the_video_leaves_the_words() -> None:
    assert clips("the red star at 59:00")[0] == 0


def test_earlier_questions_say_what_a_later_one_is_about() -> None:
    assert clips("Tell me about the green square.", "And what colour is the other one?")[0] == 2
    assert clips("Tell me about the green square.", "And the star?")[0] == 0, "the last question counts most"


def test_events_count_like_captions() -> None:
    entries = [Entry(0, 0.0, 5.0, "A yard."), Entry(1, 5.0, 10.0, "A yard.", ("00:07 forklift: yellow",))]
    assert [found.entry.clip for found in Retriever(entries, 10.0).find(["When is the forklift there?"])] == [1]


@pytest.mark.parametrize("entries", [[], [Entry(0, 0.0, 1.0, "the")], [Entry(0, 0.0, 1.0, "!?")]])
def test_a_timeline_without_a_word_has_only_times(entries: list[Entry]) -> None:
    retriever = Retriever(entries, 1.0)
    assert retriever.find(["a cat"]) == []
    assert [found.entry for found in retriever.find(["at 0:00"])] == entries


def meanings(*numbers: float) -> npt.NDArray[np.float32]:
    vector = np.array(numbers, np.float32)
    return vector / max(1e-9, float(np.linalg.norm(vector)))


ENTRIES = [Entry(at, 10.0 * at, 10.0 * at + 10.0, text) for at, text in enumerate(TEXTS)]
VECTORS = {at: meanings(*row).astype(np.float16) for at, row in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 0)])}
HYBRID = Retriever(ENTRIES, 50.0, VECTORS)


def test_what_is_meant_is_found_in_other_words() -> None:
    [first, *_] = HYBRID.find(["Is there a sphere?"], vector=meanings(0.1, 1, 0))
    assert (first.entry.clip, first.by_words) == (1, False)


def test_words_and_meaning_count_together() -> None:
    found = HYBRID.find(["the red one"], vector=meanings(0, 0.1, 1))
    # Of the two with "red" the one that is near; what is near without the word comes behind.
    assert next(one.entry.clip for one in found) == 2
    assert {one.entry.clip: one.by_words for one in found}[1] is False


def test_a_named_time_comes_before_all_meaning() -> None:
    assert [one.entry.clip for one in HYBRID.find(["a sphere at 0:05"], vector=meanings(0, 1, 0))] == [0]


def test_without_the_questions_vector_only_words_count() -> None:
    assert HYBRID.find(["Is there a sphere?"]) == []


def test_clips_without_a_vector_are_found_by_their_words() -> None:
    some = Retriever(ENTRIES, 50.0, {1: VECTORS[1]})
    assert 0 in [one.entry.clip for one in some.find(["the star"], vector=meanings(0, 1, 0))]


@pytest.mark.parametrize(
    ("questions", "whole"),
    [
        (["What happens in this video?"], True),
        (["Summarize the video, please."], True),
        (["What is going on at 1:05?"], True),
        (["Tell me about the green square.", "And when was that?"], False),
        (["When does the dog bark?"], False),
        (["What happens?", "And then?"], True),
        (["0:12?"], False),
        (["Is there a key?"], False),
        (["Can you see the watch?"], False),
        (["What happens in clip 12?"], False),
        (["What does \u732b do?"], False),
        ([""], False),
    ],
)
def test_a_question_without_a_word_of_its_own_is_about_the_whole(questions: list[str], whole: bool) -> None:
    assert asks_for_all(questions) is whole


def test_only_clips_that_are_near_count_as_near() -> None:
    some = Retriever(ENTRIES, 50.0, {1: VECTORS[1]})
    assert [one.entry.clip for one in some.find(["a sphere"], vector=meanings(0, 1, 0))] == [1]


def test_vectors_of_another_model_leave_the_words() -> None:
    other = Retriever(ENTRIES, 50.0, {0: np.ones(7, np.float16), **{at: VECTORS[at] for at in (1, 2)}})
    assert [one.entry.clip for one in other.find(["a sphere"], vector=meanings(0, 1, 0))] == [1]
    assert [one.entry.clip for one in other.find(["star"], vector=np.ones(5, np.float32))] == [0]


def test_scores_of_videos_with_and_without_vectors_can_be_sorted_together() -> None:
    [best, *_] = HYBRID.find(["red star"], vector=meanings(1, 0, 0))
    [other, *_] = Retriever([Entry(0, 0.0, 1.0, "red wine " * 20)], 1.0).find(["red star"], vector=meanings(1, 0, 0))
    assert best.score > other.score


def test_what_an_earlier_question_was_about_is_no_word_of_this_one() -> None:
    [found] = TIMELINE.find(["Where is the red star?", "What does the clock say at 0:05?"])
    assert (found.by_words, found.by_time) == (False, True)
