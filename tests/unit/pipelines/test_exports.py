import csv
import html
import io
import json
import random
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from webvtt import WebVTT

from deployments.errors import InvalidOption
from pipelines.events import ClipEvent
from pipelines.exports import CSV_HEADER, FORMATS, clock, export
from pipelines.outcome import ClipError, ClipOutcome
from pipelines.results import build_result
from tests.unit.pipelines.test_results import (
    SOURCE,
    described,
    failed,
    result,
    with_events,
    with_invalid_events,
)

NASTY = (
    *(
        "-->",
        "--->",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "\u2028",
        "\x85",
        "\x1c",
        "\0",
        "\ud800",
        "\udfff",
        "<script>",
        "&lt;",
    ),
    *(
        "&",
        "|",
        "\\",
        "*",
        "_",
        "`",
        "[x](y)",
        "~~x~~",
        '"',
        ",",
        "'",
        "=1+1",
        "+",
        "-",
        "@",
        "\t",
        " ",
        "NOTE",
        "STYLE",
    ),
    *("1\n00:00:00,000 --> 00:00:01,000\n", "WEBVTT", "{\\an8}", "\ufeff", "é", "漢", "😀"),
)
CAPTIONS = st.lists(st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=()), max_size=5), max_size=8).map(
    "".join
)


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a result of clips that touch or overlap, some of them failed, in any order; times on the plan's grain."""
    edges_us = sorted(draw(st.sets(st.integers(0, 400_000_000_000), min_size=2, max_size=6)))
    overlap_us = draw(st.sampled_from([0, 1, 400, 5_000_000]))
    outcomes = []
    for index, (start_us, end_us) in enumerate(pairwise(edges_us)):
        start_s, end_s = round(max(0, start_us - overlap_us) / 1e6, 6), round(end_us / 1e6, 6)
        outcomes.append(
            ClipOutcome(index, start_s, end_s, 1, text=draw(CAPTIONS), tokens=7, served_by=draw(CAPTIONS))
            if draw(st.booleans())
            else ClipOutcome(index, start_s, end_s, 1, error=ClipError("poison_clip", f"died: {draw(CAPTIONS)}"))
        )
    model = {"name": draw(CAPTIONS), "revision": "r1", "notice": draw(st.none() | CAPTIONS)}
    made = build_result(
        analysis_id="ana_1", model=model, source=SOURCE, outcomes=outcomes, reused=0, timings={"total_s": 1.0}
    )
    random.Random(0).shuffle(made["clips"])
    return made


def written(text: str) -> str:
    return "".join("\ufffd" if letter == "\0" or "\ud800" <= letter <= "\udfff" else letter for letter in text)


def shown(text: str) -> str:
    """Return the caption's lines as a cue can hold them: none blank, and one that says so where there are none."""
    return "\n".join(line for line in written(text).splitlines() if line.strip()) or "[no text]"


def note_of(text: str) -> str:
    return " ".join(written(text).split()).replace("-->", "→")


def in_order(made: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(made["clips"], key=lambda clip: int(clip["index"]))


def ms(timestamp: str) -> int:
    hours, minutes, seconds = timestamp.split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000 + round(float(seconds) * 1000)


def assert_times_kept(times_ms: list[tuple[int, int]], clips: list[dict[str, Any]]) -> None:
    for (start_ms, end_ms), clip in zip(times_ms, clips, strict=True):
        assert abs(start_ms - clip["start_s"] * 1000) <= 0.5 + 1e-3
        assert abs(end_ms - clip["end_s"] * 1000) <= 0.5 + 1e-3 or end_ms == start_ms + 1
        assert end_ms > start_ms
    assert [start_ms for start_ms, _ in times_ms] == sorted(start_ms for start_ms, _ in times_ms)


@given(results())
def test_any_webvtt_parses_strictly_to_the_same_times_and_texts_and_tells_what_failed(made: dict[str, Any]) -> None:
    text, _ = export(made, "vtt")
    parsed = WebVTT.from_string(text, strict=True)
    cues = parsed.captions
    ok = [clip for clip in in_order(made) if "text" in clip]
    assert [cue.identifier for cue in cues] == [str(clip["index"]) for clip in ok]
    assert [html.unescape(cue.raw_text) for cue in cues] == [shown(clip["text"]) for clip in ok]
    assert not any(sign in cue.raw_text for cue in cues for sign in "<>")
    assert_times_kept([(ms(cue.start), ms(cue.end)) for cue in cues], ok)
    notes = [*parsed.header_comments, *(note for cue in cues for note in cue.comments), *parsed.footer_comments]
    *notice, coverage = notes[0].split("\n")
    assert notice == [line for line in [note_of(made["notice"] or "")] if line]
    assert coverage.startswith("Described ")
    told = [re.sub(", .* not described ", " ", note) for note in notes[1:]]
    assert told == [
        note_of(f"Clip {clip['index']} (poison_clip): {clip['error']['message']}")
        for clip in in_order(made)
        if "error" in clip
    ]


@given(results())
def test_any_srt_parses_to_the_same_times_and_texts_and_tells_what_failed(made: dict[str, Any]) -> None:
    text, _ = export(made, "srt")
    parsed = WebVTT.from_buffer(io.StringIO(text, newline=""), format="srt")
    clips = in_order(made)
    expected = [
        shown(clip["text"]).replace("-->", "→") if "text" in clip else "[not described: poison_clip]" for clip in clips
    ]
    assert [cue.raw_text for cue in parsed.captions] == expected
    assert_times_kept([(ms(cue.start), ms(cue.end)) for cue in parsed.captions], clips)
    assert [int(number) for number in re.findall(r"^(\d+)\n(?=\d+:\d\d:\d\d,\d{3} -->)", text, re.M)] == [
        *range(1, len(clips) + 1)
    ]


@given(results())
def test_any_csv_reads_back_and_holds_no_formula(made: dict[str, Any]) -> None:
    text, _ = export(made, "csv")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert tuple(header) == CSV_HEADER
    for row, clip in zip(rows, in_order(made), strict=True):
        cells = dict(zip(header, row, strict=True))
        assert (int(cells["index"]), float(cells["start_s"]), float(cells["end_s"])) == (
            clip["index"],
            clip["start_s"],
            clip["end_s"],
        )
        said = written(clip.get("text") or clip.get("error", {}).get("message") or "")
        cell = cells["error_message" if "error" in clip else "text"]
        assert cell in (said, f"'{said}")
        assert cell[:1] not in tuple("=+-@\t\r")
        assert cells["served_by"][:1] not in tuple("=+-@\t\r")
        assert cells["error_code"] == ("poison_clip" if "error" in clip else "")


def cells_of(page: str) -> list[str]:
    """Return the text of each cell of the page's table as a reader sees it: markup is not seen."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)
    return [
        "".join(part.content for part in token.children or () if part.type in ("text", "text_special"))
        for before, token in pairwise(tokens)
        if before.type in ("th_open", "td_open")
    ]


@given(results())
def test_no_text_breaks_out_of_its_cell_in_markdown_or_marks_anything_up(made: dict[str, Any]) -> None:
    cells = cells_of(export(made, "md")[0])
    said = [
        clip["text"] if "text" in clip else f"not described (poison_clip): {clip['error']['message']}"
        for clip in in_order(made)
    ]
    assert len(cells) == 2 * (1 + len(said))
    assert cells[3::2] == [" ".join(written(text).split()) for text in said]


@given(results())
def test_every_format_is_utf_8_and_json_is_whole_and_in_order(made: dict[str, Any]) -> None:
    for name in FORMATS:
        export(made, name)[0].encode()
    assert [clip["index"] for clip in json.loads(export(made, "json")[0])["clips"]] == [*range(len(made["clips"]))]
    tame = result(described(0, 0, 10, "Ein Ü"), failed(1, 10, 20))
    assert json.loads(export(tame, "json")[0]) == tame


@given(st.integers(0, 604_800_000_000), st.integers(1000, 3_600_000_000), st.floats(-4e-7, 4e-7))
def test_neighbours_that_touch_still_touch(start_us: int, length_us: int, noise_s: float) -> None:
    edge_s, end_s = (start_us + length_us) / 1e6, (start_us + 2 * length_us) / 1e6
    made = result(described(0, start_us / 1e6, edge_s + noise_s), described(1, edge_s, end_s))
    first, second = WebVTT.from_string(export(made, "vtt")[0], strict=True).captions
    assert first.end == second.start


def test_half_milliseconds_squeeze_no_clip_and_noise_parts_no_neighbours() -> None:
    made = result(described(0, 0, 0.0015 - 1e-10), described(1, 0.0015, 0.0025), described(2, 0.0025, 0.0035))
    cues = WebVTT.from_string(export(made, "vtt")[0], strict=True).captions
    assert [(ms(cue.start), ms(cue.end)) for cue in cues] == [(0, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("end_s", [5.0, 4.0, 5.0001])
def test_a_cue_lasts_at_least_a_millisecond(end_s: float) -> None:
    made = result(described(0, 5.0, end_s))
    assert "00:00:05.000 --> 00:00:05.001" in export(made, "vtt")[0]
    assert "00:00:05,000 --> 00:00:05,001" in export(made, "srt")[0]


def test_webvtt_reads_well() -> None:
    made = result(
        described(0, 0, 12.5, "A <b>cat</b> & a dog.\n\nA --> B"), failed(1, 10, 3661.0), described(2, 20, 30)
    )
    assert export(made, "vtt") == (
        "WEBVTT\n"
        "\n"
        "NOTE\n"
        "only drawn scenes\n"
        "Described 22.5 s of 3661.0 s planned (4 of 9 frames); 3638.5 s failed; 0 clips reused from an earlier run.\n"
        "\n"
        "0\n"
        "00:00:00.000 --> 00:00:12.500\n"
        "A &lt;b&gt;cat&lt;/b&gt; &amp; a dog.\n"
        "A --&gt; B\n"
        "\n"
        "NOTE\n"
        "Clip 1, 00:00:10.000 to 01:01:01.000, not described (poison_clip): it died\n"
        "\n"
        "2\n"
        "00:00:20.000 --> 00:00:30.000\n"
        "A cat.\n",
        "text/vtt; charset=utf-8",
    )


def test_srt_reads_well_and_clips_may_overlap() -> None:
    made = result(described(0, 0, 12.5, "A cat.\r\n \r\nA dog."), failed(1, 10, 22.5), described(2, 20, 30, ""))
    assert export(made, "srt") == (
        "1\n00:00:00,000 --> 00:00:12,500\nA cat.\nA dog.\n"
        "\n"
        "2\n00:00:10,000 --> 00:00:22,500\n[not described: poison_clip]\n"
        "\n"
        "3\n00:00:20,000 --> 00:00:30,000\n[no text]\n",
        "application/x-subrip",
    )


def test_csv_reads_well() -> None:
    made = result(described(0, 0, 10, '=HYPERLINK("x")'), failed(1, 10, 20), described(2, 20, 30, "a\r\nb"))
    made["clips"][2]["start_s"] = -1.5
    assert export(made, "csv")[0] == (
        "index,start_s,end_s,text,error_code,error_message,frames,tokens,served_by,events,events_error\r\n"
        '2,-1.5,30,"a\r\nb",,,2,0,local,,\r\n'
        '0,0,10,"\'=HYPERLINK(""x"")",,,2,0,local,,\r\n'
        "1,10,20,,poison_clip,it died,0,0,,,\r\n"
    )


SEEN = (
    with_events(described(0, 0, 10), ClipEvent("fall", "a <b>cat</b>\n\n-->", 2.5), ClipEvent("=rise|", None, 61.0)),
    with_events(described(1, 10, 20)),
    with_invalid_events(described(2, 20, 30), "expected a list,\n\ngot -->"),
)


def test_events_stand_in_the_cues_of_their_clips() -> None:
    made = result(*SEEN, event_kinds=["fall", "=rise|"])
    text, _ = export(made, "vtt")
    parsed = WebVTT.from_string(text, strict=True)
    assert [html.unescape(cue.raw_text) for cue in parsed.captions] == [
        "A cat.\n00:02 fall: a <b>cat</b> -->\n01:01 =rise|",
        "A cat.",
        "A cat.",
    ]
    assert parsed.header_comments[0].endswith("0 clips reused from an earlier run; events valid in 2 of 3 clips.")
    assert parsed.footer_comments == ["Clip 2, 00:00:20.000 to 00:00:30.000, events not valid: expected a list, got →"]
    srt = WebVTT.from_buffer(io.StringIO(export(made, "srt")[0], newline=""), format="srt")
    assert [cue.raw_text for cue in srt.captions] == [
        "A cat.\n00:02 fall: a <b>cat</b> →\n01:01 =rise|",
        "A cat.",
        "A cat.\n[events: invalid_events]",
    ]


def test_events_are_json_in_one_cell_of_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(export(result(*SEEN, event_kinds=["fall"]), "csv")[0], newline="")))
    assert [event["time_s"] for event in json.loads(rows[0]["events"])] == [2.5, 61.0]
    assert [row["events"] for row in rows[1:]] == ["[]", ""]
    assert [row["events_error"] for row in rows] == ["", "", "expected a list,\n\ngot -->"]


def test_events_are_a_table_of_their_own_in_markdown() -> None:
    cells = cells_of(export(result(*SEEN, event_kinds=["fall", "=rise|"]), "md")[0])
    assert cells[8:] == [
        *("time", "event", "who or what"),
        *("00:02", "fall", "a <b>cat</b> -->"),
        *("01:01", "=rise|", ""),
        *("00:20 – 00:30", "events not valid: expected a list, got -->", ""),
    ]


def test_a_result_from_before_there_were_events_is_exported_as_it_was() -> None:
    made = result(described(0, 0, 10))
    old = {name: value for name, value in made.items() if name not in ("events", "event_kinds")}
    for name in ("vtt", "srt", "csv", "md"):
        assert export(old, name) == export(made, name)


def test_the_markdown_timeline_reads_well_and_no_caption_breaks_its_table() -> None:
    page, _ = export(result(described(0, 0, 10, "a | b\nc <script>"), failed(1, 10, 20)), "md")
    assert "| 00:00 – 00:10 | a \\| b c &lt;script> |" in page
    assert "| 00:10 – 00:20 | *not described (poison_clip): it died* |" in page
    assert "> only drawn scenes" in page
    assert "Described 10.0 s of 20.0 s planned (2 of 6 frames); 10.0 s failed" in page


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match="format must be one of json, vtt, srt, csv, md, got 'xml'"):
        export(result(described(0, 0, 10)), "xml")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "00:00"), (59.9, "00:59"), (60, "01:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_clock_times(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
