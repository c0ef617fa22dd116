"""How answers cite, and which citations count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.chat.citations import Citation, cited, mark
from deployments.chat.contracts import Passage


def passage(clip: int, start_s: float, end_s: float, label: str = "", analysis: str = "ana_1") -> Passage:
    return Passage(mark(start_s, end_s, label), analysis, clip, start_s, end_s, "")


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, 10.0, "[0:00-0:10]"),
        (59.999, 60.0, "[1:00-1:00]"),
        (3723.0, 3733.25, "[1:02:03-1:02:13.25]"),
        (1.5, 2.0, "[0:01.5-0:02]"),
    ],
)
def test_a_mark_says_minutes_and_seconds(start_s: float, end_s: float, expected: str) -> None:
    assert mark(start_s, end_s) == expected


def test_each_clip_is_cited_once_in_the_answer_s_order() -> None:
    passages = [passage(0, 0.0, 10.0), passage(1, 10.0, 20.0)]
    found = cited("It moves [0:10-0:20]. Before [0:00-0:10] and [0:10-0:20] it did not.", passages)
    assert found.citations == [Citation("ana_1", 1, 10.0, 20.0), Citation("ana_1", 0, 0.0, 10.0)]
    assert found.unsupported == []


def test_a_stretch_inside_a_clip_counts_and_one_beyond_it_does_not() -> None:
    found = cited("[0:12–0:15] [0:15-0:25] [0:19-0:12] [9:00-9:10] [sic] [1-2]", [passage(1, 10.0, 20.0)])
    assert found.citations == [Citation("ana_1", 1, 10.0, 20.0)]
    assert found.unsupported == ["[0:15-0:25]", "[0:19-0:12]", "[9:00-9:10]"]


def test_of_overlapping_clips_the_one_that_fits_is_cited() -> None:
    passages = [passage(0, 0.0, 10.0), passage(1, 5.0, 15.0), passage(2, 6.0, 8.0)]
    assert [one.clip for one in cited("[0:05-0:10]", passages).citations] == [1]
    assert [one.clip for one in cited("[0:06-0:08]", passages).citations] == [2]


def test_a_label_says_which_video_is_meant() -> None:
    passages = [passage(0, 0.0, 10.0, "A", "ana_1"), passage(0, 0.0, 10.0, "B", "ana_2")]
    assert [one.analysis_id for one in cited("[B 0:00-0:10]", passages).citations] == ["ana_2"]
    assert cited("[0:00-0:10] [C 0:00-0:10]", passages).citations == []


@given(st.floats(0.0, 50_000.0), st.floats(0.05, 600.0))
def test_a_passage_s_own_mark_always_cites_it(start_s: float, length_s: float) -> None:
    one = passage(3, start_s, start_s + length_s)
    assert [found.clip for found in cited(f"so {one.mark}.", [one]).citations] == [3]
