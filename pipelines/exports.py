"""A result as other programs and people read it: JSON, WebVTT, SRT, CSV, Markdown. A dict in, text out."""

import csv
import html
import io
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from deployments.errors import InvalidOption

CSV_HEADER = (
    *("index", "start_s", "end_s", "text", "error_code", "error_message", "frames", "tokens", "served_by"),
    *("events", "events_error"),
)

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[|~])")
# OWASP's list: a spreadsheet takes cells that begin so for formulas, full-width signs included.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def export(result: Mapping[str, Any], format: str) -> tuple[str, str]:
    """Return result.json's content as `format`, one of FORMATS, and its media type.

    The text can always be written as UTF-8: NUL and lone surrogates become U+FFFD. Raises InvalidOption.
    """
    if format not in FORMATS:
        raise InvalidOption(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return _UNWRITABLE.sub("\ufffd", FORMATS[format].write(result)), FORMATS[format].media_type


def to_json(result: Mapping[str, Any]) -> str:
    """Return the result whole, clips in time order, as `json.dumps(indent=1)` writes it."""
    rows = {"clips": _in_time_order(result), "events": result.get("events", [])}
    text = _dumps({**result, **{name: [] for name in rows if name in result}})
    for name, some in rows.items():
        if some:
            # Row by row: json holds an indented text in some hundred pieces a clip until all of it is there.
            lines = ",\n  ".join(_dumps(row).replace("\n", "\n  ") for row in some)
            # No string in JSON has a line's end in it, so this is the name itself, of the outermost object.
            text = text.replace(f'\n "{name}": []', f'\n "{name}": [\n  {lines}\n ]', 1)
    return text


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def to_webvtt(result: Mapping[str, Any]) -> str:
    """Return W3C WebVTT: a cue for each described clip, its id the clip's index; a NOTE for each failed one.

    A clip's events are lines of its cue below the caption; a NOTE tells where they are not valid. A first NOTE holds
    the model's notice and the coverage. Source: https://www.w3.org/TR/webvtt1/#syntax
    """
    blocks = ["WEBVTT", _vtt_note(result["notice"] or "", _coverage_line(result))]
    for clip in _in_time_order(result):
        start, end = (_timestamp(at_ms, ".") for at_ms in _cue_ms(clip))
        if "error" in clip:
            error = clip["error"]
            told = f"Clip {clip['index']}, {start} to {end}, not described ({error['code']}): {error['message']}"
            blocks.append(_vtt_note(told))
        else:
            # With > escaped no --> is left, which would begin another cue.
            lines = (html.escape(line, quote=False) for line in [*_caption_lines(clip["text"]), *_event_lines(clip)])
            blocks.append("\n".join([str(clip["index"]), f"{start} --> {end}", *lines]))
            if "events_error" in clip:
                told = f"Clip {clip['index']}, {start} to {end}, events not valid: {clip['events_error']['message']}"
                blocks.append(_vtt_note(told))
    return "\n\n".join(blocks) + "\n"


def to_srt(result: Mapping[str, Any]) -> str:
    """Return SubRip: a cue for every clip, its events below the caption.

    A failed one says `[not described: CODE]`, one whose events are not valid `[events: CODE]`: SRT has no comments.
    """
    blocks = []
    for number, clip in enumerate(_in_time_order(result), start=1):
        start, end = (_timestamp(at_ms, ",") for at_ms in _cue_ms(clip))
        said = f"[not described: {clip['error']['code']}]" if "error" in clip else clip["text"]
        events = [f"[events: {clip['events_error']['code']}]"] if "events_error" in clip else _event_lines(clip)
        lines = (_without_arrow(line) for line in [*_caption_lines(said), *events])
        blocks.append("\n".join([str(number), f"{start} --> {end}", *lines]) + "\n")
    return "\n".join(blocks)


def to_csv(result: Mapping[str, Any]) -> str:
    """Return RFC 4180 CSV with CSV_HEADER, a row for every clip; `frames` counts those that were decoded.

    `events` is a JSON array, empty where there are none, and nothing where there is no valid answer about them.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(CSV_HEADER)
    for clip in _in_time_order(result):
        error = clip.get("error", {})
        texts = (clip.get("text"), error.get("code"), error.get("message"))
        writer.writerow(
            [
                clip["index"],
                clip["start_s"],
                clip["end_s"],
                *map(_no_formula, texts),
                len(clip["pts_s"]),
                clip["tokens"],
                _no_formula(clip["served_by"]),
                json.dumps(clip["events"], ensure_ascii=False) if "events" in clip else "",
                _no_formula(clip.get("events_error", {}).get("message")),
            ]
        )
    return table.getvalue()


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the timeline as a page to read: captions by time, what failed, and the coverage account."""
    file = result["file"]
    lines = [
        f"# {_markdown(file['filename'])}",
        "",
        f"{clock(file['duration_s'])} long, {file['width']}x{file['height']}, {file['fps']:.4g} frames/s, "
        f"described by {_markdown(result['model'])} ({result['status']}).",
        "",
    ]
    if result["notice"]:
        lines += [f"> {_markdown(result['notice'])}", ""]
    lines += _markdown_summary(result)
    lines += ["| time | what was seen |", "|---|---|"]
    for clip in _in_time_order(result):
        said = (
            f"*not described ({clip['error']['code']}): {_markdown(clip['error']['message'])}*"
            if "error" in clip
            else _markdown(clip["text"])
        )
        lines.append(f"| {clock(clip['start_s'])} – {clock(clip['end_s'])} | {said} |")
    lines += [*_markdown_events(result), "", _coverage_line(result), ""]
    return "\n".join(lines)


def _markdown_summary(result: Mapping[str, Any]) -> list[str]:
    summary = result.get("summary")  # results of old have none
    if not summary or not summary["passages"]:
        return []
    lines = ["In short, in the captions' own words:", ""]
    for passage in summary["passages"]:
        places = ", ".join(f"{clock(one['start_s'])} – {clock(one['end_s'])}" for one in passage["citations"])
        lines.append(f"- {_markdown(passage['text'])} [{places}]")
    return [*lines, ""]


def _markdown_events(result: Mapping[str, Any]) -> list[str]:
    if not result.get("event_kinds"):  # results of old have none
        return []
    lines = ["", "| time | event | who or what |", "|---|---|---|"]
    for event in result["events"]:
        cells = (_markdown(event["event"]), _markdown(event["object"] or ""))
        lines.append(f"| {clock(event['time_s'])} | {' | '.join(cells)} |")
    for clip in _in_time_order(result):
        if "events_error" in clip:
            told = f"*events not valid: {_markdown(clip['events_error']['message'])}*"
            lines.append(f"| {clock(clip['start_s'])} – {clock(clip['end_s'])} | {told} | |")
    return lines


class Format(NamedTuple):
    """How a result is written, and what the text is called over HTTP."""

    write: Callable[[Mapping[str, Any]], str]
    media_type: str


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "json": Format(to_json, "application/json"),
        "vtt": Format(to_webvtt, "text/vtt; charset=utf-8"),
        "srt": Format(to_srt, "application/x-subrip"),
        "csv": Format(to_csv, "text/csv; charset=utf-8"),
        "md": Format(to_markdown, "text/markdown; charset=utf-8"),
    }
)


def clock(seconds: float) -> str:
    """Return `mm:ss`, or `h:mm:ss` from one hour on, of the whole second that `seconds` lies in."""
    whole = int(seconds + 1e-6)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


def _in_time_order(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(result["clips"], key=lambda clip: (clip["start_s"], clip["end_s"], clip["index"]))


def _coverage_line(result: Mapping[str, Any]) -> str:
    coverage = result["coverage"]
    events = ""
    if "clips_events_valid" in coverage:
        answered = coverage["clips_events_valid"] + coverage["clips_events_invalid"]
        events = f"; events valid in {coverage['clips_events_valid']} of {answered} clips"
    return (
        f"Described {coverage['described_s']:.1f} s of {coverage['planned_s']:.1f} s planned "
        f"({coverage['frames_described']} of {coverage['frames_planned']} frames); "
        f"{coverage['failed_s']:.1f} s failed; {coverage['reused']} clips reused from an earlier run"
        f"{events}."
    )


def _cue_ms(clip: Mapping[str, Any]) -> tuple[int, int]:
    start_ms, end_ms = _milliseconds(clip["start_s"]), _milliseconds(clip["end_s"])
    return start_ms, max(end_ms, start_ms + 1)


def _milliseconds(seconds: float) -> int:
    # By way of microseconds, the plan's own grain, so that noise below it cannot part neighbours; and half up, because
    # round()'s half to even would squeeze 1.5 ms to 2.5 ms to nothing.
    return (round(seconds * 1_000_000) + 500) // 1000


def _timestamp(at_ms: int, point: str) -> str:
    at_s, ms = divmod(at_ms, 1000)
    minutes, second = divmod(at_s, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{ms:03d}"


def _caption_lines(text: str) -> list[str]:
    # A blank line ends a cue, and parsers differ in what ends a line: str.splitlines knows everything that may. They
    # drop a cue without text, too.
    return [line for line in text.splitlines() if line.strip()] or ["[no text]"]


def event_line(event: Mapping[str, Any]) -> str:
    """Return `mm:ss event: object`."""
    return f"{clock(event['time_s'])} {event['event']}" + (f": {event['object']}" if event["object"] else "")


def _event_lines(clip: Mapping[str, Any]) -> list[str]:
    return [" ".join(event_line(event).split()) for event in clip.get("events", ())]


def _vtt_note(*lines: str) -> str:
    told = (_without_arrow(" ".join(line.split())) for line in lines)
    return "\n".join(["NOTE", *filter(None, told)])


def _without_arrow(line: str) -> str:
    # Where nothing can be escaped: a --> would begin another cue.
    return line.replace("-->", "→")


def _no_formula(text: str | None) -> str:
    return f"'{text}" if text and text.startswith(_FORMULA_STARTS) else text or ""


def _markdown(text: str) -> str:
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN_SIGNS.sub(r"\\\1", line)
