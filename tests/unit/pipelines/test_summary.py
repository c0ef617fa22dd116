import subprocess
import sys
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.outcome import ClipError, ClipOutcome
from pipelines.summary import MOST_PASSAGES, summary_of

texts = st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=20)), max_size=40)


def outcomes(*said: str | None) -> list[ClipOutcome]:
    """A clip of ten seconds for each text; one for None failed."""
    return [
        ClipOutcome(index, 10.0 * index, 10.0 * index + 10.0, 2, text=text)
        if text is not None
        else ClipOutcome(index, 10.0 * index, 10.0 * index + 10.0, 2, error=ClipError("poison_clip", "it died"))
        for index, text in enumerate(said)
    ]


def quoted(summary: dict[str, Any]) -> list[str]:
    return [passage["text"] for passage in summary["passages"]]


def test_few_captions_are_all_quoted_with_their_places() -> None:
    assert summary_of(outcomes("A dog runs.", "A cat sleeps.")) == {
        "by": "extractive",
        "passages": [
            {"text": "A dog runs.", "citations": [{"clip": 0, "start_s": 0.0, "end_s": 10.0}]},
            {"text": "A cat sleeps.", "citations": [{"clip": 1, "start_s": 10.0, "end_s": 20.0}]},
        ],
        "not_described": [],
    }


def test_what_a_part_is_about_is_quoted_before_what_is_in_every_part() -> None:
    kitchen = [
        "A person stands.",
        "A person chops onions in a kitchen.",
        "Onions lie in a kitchen.",
        "A person stands.",
    ]
    street = ["A person stands.", "A bus stops on a wet street.", "Cars wait on a wet street.", "A person stands."]
    [first, second] = quoted(summary_of(outcomes(*kitchen, *street), most=2))
    assert "kitchen" in first
    assert "street" in second


def test_what_goes_on_unchanged_is_told_once_with_every_place() -> None:
    summary = summary_of(outcomes(*["A door stays shut."] * 30), most=3)
    [passage] = summary["passages"]
    assert [citation["clip"] for citation in passage["citations"]] == [0, 10, 20]


def test_ranges_that_failed_are_named_and_never_spoken_of() -> None:
    summary = summary_of(outcomes(None, None, "A dog.", None))
    assert quoted(summary) == ["A dog."]
    assert summary["not_described"] == [
        {"start_s": 0.0, "end_s": 20.0, "code": "poison_clip"},
        {"start_s": 30.0, "end_s": 40.0, "code": "poison_clip"},
    ]


@given(texts)
def test_every_citation_is_a_described_clip_whose_caption_it_quotes(said: list[str | None]) -> None:
    rows = outcomes(*said)
    summary = summary_of(rows)
    assert len(summary["passages"]) <= MOST_PASSAGES
    assert bool(summary["passages"]) == any(said)
    places = []
    for passage in summary["passages"]:
        for citation in passage["citations"]:
            row = rows[citation["clip"]]
            assert (row.text, row.start_s, row.end_s) == (passage["text"], citation["start_s"], citation["end_s"])
            places.append(citation["clip"])
    assert all(one < other for one, other in pairwise(places))


def test_the_same_captions_give_the_same_summary_in_every_process() -> None:
    code = (
        "from tests.unit.pipelines.test_summary import outcomes, quoted; from pipelines.summary import summary_of\n"
        "said = [f'word{i % 7} word{i % 5} word{i % 3} and {i % 2}' for i in range(60)]\n"
        "print(quoted(summary_of(outcomes(*said))))"
    )
    run = [sys.executable, "-c", code]
    answers = {
        subprocess.run(run, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1
