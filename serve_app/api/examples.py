"""Answers as the OpenAPI document shows them."""

from pydantic import JsonValue

_HERE = "/v1/analyses/ana_019ab0c2e5f60718293a4b5c"
ANALYSIS: dict[str, JsonValue] = {
    "id": "ana_019ab0c2e5f60718293a4b5c",
    "object": "analysis",
    "state": "running",
    "file_id": "file_019ab0c1d2e3f4a5b6c7d8e9",
    "filename": "cats.mp4",
    "model": "demo",
    "options": {"prompt": "What happens here?", "clip_duration_s": 10.0, "fps": 1.0, "events": ["a cat jumps"]},
    "metadata": {},
    "created_at": 1764000000.0,
    "started_at": 1764000000.4,
    "first_caption_at": 1764000001.2,
    "finished_at": None,
    "attempt": 1,
    "round": 0,
    "progress": {"clips_done": 3, "clips_failed": 0, "clips_total": 12, "fraction": 0.25, "eta_s": 7.5},
    "coverage": None,
    "links": {
        "self": _HERE,
        "file": "/v1/files/file_019ab0c1d2e3f4a5b6c7d8e9",
        "clips": f"{_HERE}/clips",
        "events": f"{_HERE}/events",
        "result": f"{_HERE}/result",
        "ws": f"{_HERE}/ws",
    },
}
RESULT: dict[str, JsonValue] = {
    "analysis_id": "ana_019ab0c2e5f60718293a4b5c",
    "status": "completed",
    "model": "demo",
    "summary": {
        "by": "extractive",
        "passages": [{"text": "A cat jumps onto a table.", "citations": [{"clip": 0, "start_s": 0.0, "end_s": 10.0}]}],
        "not_described": [],
    },
    "clips": [
        {
            "index": 0,
            "start_s": 0.0,
            "end_s": 10.0,
            "text": "A cat jumps onto a table.",
            "events": [{"event": "a cat jumps", "object": "black cat", "time_s": 3.0}],
        }
    ],
    "event_kinds": ["a cat jumps"],
    "events": [{"event": "a cat jumps", "object": "black cat", "time_s": 3.0, "clip": 0}],
    "coverage": {"planned_s": 10.0, "described_s": 10.0, "clips_events_valid": 1, "clips_events_invalid": 0},
}
