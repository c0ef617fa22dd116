"""What an analysis leaves: one JSON, its clips as JSONL and Parquet, a readable timeline."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from pipelines.exports import export
from pipelines.outcome import ClipOutcome
from pipelines.source import Source
from pipelines.store import put
from pipelines.summary import summary_of

_CLIP_COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("frames_planned", pa.int64()),
        ("pts_s", pa.list_(pa.float64())),
        ("text", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("tokens", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("attempts", pa.int64()),
        ("served_by", pa.string()),
        ("decode_s", pa.float64()),
        ("queue_s", pa.float64()),
        ("engine_s", pa.float64()),
        ("events", pa.list_(pa.struct([("event", pa.string()), ("object", pa.string()), ("time_s", pa.float64())]))),
        ("events_error_code", pa.string()),
        ("events_error_message", pa.string()),
        ("events_tokens", pa.int64()),
        ("events_prompt_tokens", pa.int64()),
    ]
)


def status_of(outcomes: Sequence[ClipOutcome]) -> str:
    """Return `completed`, `partial` (some clips failed) or `failed` (all did)."""
    failed = sum(outcome.error is not None for outcome in outcomes)
    return "completed" if not failed else "failed" if failed == len(outcomes) else "partial"


def coverage_of(outcomes: Sequence[ClipOutcome], reused: int, *, events_asked: bool = False) -> dict[str, Any]:
    """Return the account of what was and was not seen.

    Seconds are of the video's timeline, overlap counted once; a second that any described clip holds is described.
    `reused` counts clips whose outcome an earlier run had recorded. Where events were asked for, each described clip's
    are valid or invalid.
    """
    described = [outcome for outcome in outcomes if outcome.error is None]
    planned_s = _union_s((outcome.start_s, outcome.end_s) for outcome in outcomes)
    described_s = _union_s((outcome.start_s, outcome.end_s) for outcome in described)
    return {
        "planned_s": round(planned_s, 6),
        "described_s": round(described_s, 6),
        "failed_s": round(planned_s - described_s, 6),
        "clips_planned": len(outcomes),
        "clips_described": len(described),
        "frames_planned": sum(outcome.frames_planned for outcome in outcomes),
        "frames_decoded": sum(len(outcome.pts_s) for outcome in outcomes),
        "frames_described": sum(len(outcome.pts_s) for outcome in described),
        "clips_failed_by_code": dict(sorted(Counter(o.error.code for o in outcomes if o.error is not None).items())),
        "clips_by_server": dict(sorted(Counter(str(outcome.served_by) for outcome in described).items())),
        "reused": reused,
    } | (
        {
            "clips_events_valid": sum(outcome.events is not None for outcome in described),
            "clips_events_invalid": sum(outcome.events_error is not None for outcome in described),
        }
        if events_asked
        else {}
    )


def events_of(outcomes: Sequence[ClipOutcome]) -> list[dict[str, Any]]:
    """Return all events in time order, each with its clip's index; what overlapping clips share may come twice."""
    rows = [asdict(event) | {"clip": outcome.index} for outcome in outcomes for event in outcome.events or ()]
    return sorted(rows, key=lambda row: (row["time_s"], row["clip"]))


def build_result(
    *,
    analysis_id: str,
    model: dict[str, Any],
    source: Source,
    outcomes: Sequence[ClipOutcome],
    reused: int,
    timings: dict[str, float],
    event_kinds: Sequence[str] = (),
    summary: bool = True,
) -> dict[str, Any]:
    """Return the content of result.json; `outcomes` hold one for every planned clip, in order.

    `events` is empty, too, where none were asked for: `event_kinds` says which were. Without `summary` it is null.
    """
    video = source.video
    return {
        "analysis_id": analysis_id,
        "status": status_of(outcomes),
        "model": model["name"],
        "model_revision": model["revision"],
        "notice": model["notice"],
        "file": {
            "filename": source.filename,
            "sha256": source.sha256,
            "bytes": source.bytes,
            "duration_s": round(video.duration_s, 6),
            "width": video.width,
            "height": video.height,
            "fps": round(video.fps, 6),
            "rotation_deg": video.rotation_deg,
            "codec": video.codec,
            "has_audio": video.has_audio,
        },
        "summary": summary_of(outcomes) if summary else None,
        "clips": [outcome.as_json() for outcome in outcomes],
        "event_kinds": list(event_kinds),
        "events": events_of(outcomes),
        "coverage": coverage_of(outcomes, reused, events_asked=bool(event_kinds)),
        "timings": timings,
    }


RESULT_FILES = ("clips.jsonl", "clips.parquet", "timeline.md", "result.json")


async def write_result(store: ObjectStore, prefix: str, result: dict[str, Any]) -> None:
    """Write clips.jsonl, clips.parquet, timeline.md and, last, result.json: who sees that, sees all of them."""
    clips = result["clips"]
    lines = "".join(json.dumps(clip, ensure_ascii=False) + "\n" for clip in clips)
    await put(store, f"{prefix}clips.jsonl", lines.encode())
    await put(store, f"{prefix}clips.parquet", _parquet(clips))
    await put(store, f"{prefix}timeline.md", export(result, "md")[0].encode())
    await put(store, f"{prefix}result.json", export(result, "json")[0].encode())


def _parquet(clips: Iterable[dict[str, Any]]) -> bytes:
    rows = [
        clip
        | {f"{name}_{key}": value for name in ("error", "events_error") for key, value in clip.get(name, {}).items()}
        for clip in clips
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_CLIP_COLUMNS), sink)
    return bytes(sink.getvalue())


def _union_s(ranges: Iterable[tuple[float, float]]) -> float:
    total_s, reached_s = 0.0, float("-inf")
    for start_s, end_s in sorted(ranges):
        total_s += max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s
