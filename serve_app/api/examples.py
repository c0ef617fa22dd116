"""Answers as the OpenAPI document shows them: without nulls, which FastAPI would leave out of the examples."""

from pydantic import JsonValue
from pydantic.config import JsonDict

_HERE = "/v1/analyses/ana_019ab0c2e5f60718293a4b5c"
ANALYSIS: dict[str, JsonValue] = {
    "id": "ana_019ab0c2e5f60718293a4b5c",
    "object": "analysis",
    "state": "completed",
    "file_id": "file_019ab0c1d2e3f4a5b6c7d8e9",
    "filename": "cats.mp4",
    "model": "demo",
    "options": {"prompt": "What happens here?", "clip_duration_s": 10.0, "fps": 1.0, "events": ["a cat jumps"]},
    "metadata": {},
    "created_at": 1764000000.0,
    "started_at": 1764000000.4,
    "first_caption_at": 1764000001.2,
    "finished_at": 1764000008.9,
    "attempt": 1,
    "round": 0,
    "progress": {"clips_done": 12, "clips_failed": 0, "clips_total": 12, "fraction": 1.0, "eta_s": 0.0},
    "coverage": {"planned_s": 120.0, "described_s": 120.0, "failed_s": 0.0},
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

FILE: dict[str, JsonValue] = {
    "id": "file_019ab0c1d2e3f4a5b6c7d8e9",
    "object": "file",
    "bytes": 4470982,
    "created_at": 1764000000,
    "expires_at": 1766592000,
    "filename": "cats.mp4",
    "purpose": "user_data",
    "status": "processed",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "video": {"duration_s": 120.0, "width": 640, "height": 360, "fps": 25.0, "codec": "h264", "has_audio": False},
}
CHAT_ASKED: dict[str, JsonValue] = {
    "analysis_id": "ana_019ab0c2e5f60718293a4b5c",
    "messages": [{"role": "user", "content": "When does the cat jump?"}],
}
_ANSWER = "[0:00-0:10] A cat jumps onto a table."
_CITATIONS: JsonValue = [
    {"analysis_id": "ana_019ab0c2e5f60718293a4b5c", "clip": 0, "start_s": 0.0, "end_s": 10.0},
]
CHAT: dict[str, JsonValue] = {
    "id": "chat_019ab0c3a1b2c3d4e5f60718",
    "object": "chat.completion",
    "created": 1764000020,
    "model": "extractive",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": _ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "usd": 0.0},
    "served_by": "extractive",
    "attempts": 0,
    "looked_again": [],
    "citations": _CITATIONS,
    "unsupported_citations": [],
    "covered": [
        {
            "analysis_id": "ana_019ab0c2e5f60718293a4b5c",
            "state": "completed",
            "clips_described": 12,
            "clips_failed": 0,
            "clips_total": 12,
        }
    ],
}
CHAT_STREAM = (
    'data: {"id": "chat_019ab0c3a1b2c3d4e5f60718", "object": "chat.completion.chunk", "created": 1764000020, '
    '"model": "extractive", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "[0:00-0:10] A cat '
    'jumps onto a table."}, "finish_reason": null}]}\n\ndata: [DONE]\n\n'
)
EXCHANGE: dict[str, JsonValue] = {
    "id": "chat_019ab0c3a1b2c3d4e5f60718",
    "created_at": 1764000020.1,
    "model": "extractive",
    "served_by": "extractive",
    "analysis_ids": ["ana_019ab0c2e5f60718293a4b5c"],
    "turns": [{"by": "user", "text": "When does the cat jump?"}],
    "answer": _ANSWER,
    "finish_reason": "stop",
    "citations": _CITATIONS,
    "unsupported_citations": [],
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0},
    "attempts": 0,
    "looked_again": [],
}
PART: dict[str, JsonValue] = {
    "id": "part_019ab0c1e0a1b2c3d4e5f607",
    "object": "upload.part",
    "created_at": 1764000010,
    "upload_id": "upload_019ab0c1d9f8e7d6c5b4a392",
    "bytes": 4470982,
}
UPLOAD: dict[str, JsonValue] = {
    "id": "upload_019ab0c1d9f8e7d6c5b4a392",
    "object": "upload",
    "bytes": 4470982,
    "created_at": 1764000000,
    "expires_at": 1764086400,
    "filename": "cats.mp4",
    "purpose": "user_data",
    "status": "completed",
    "parts": [],
    "file": FILE,
}
MODEL: dict[str, JsonValue] = {
    "id": "demo",
    "object": "model",
    "created": 0,
    "owned_by": "vidray",
    "kind": "vision",
    "state": "failed",
    "engine": "transformers",
    "max_frames": 16,
    "notice": "knows only drawn scenes",
    "error": "expected the weights of the checkpoint, got none",
    "load_progress": None,
    "choice": None,
}
CLIP: dict[str, JsonValue] = {
    "event_id": 2,
    "index": 0,
    "start_s": 0.0,
    "end_s": 10.0,
    "text": "A cat jumps onto a table.",
}
ERROR: dict[str, JsonValue] = {
    "error": {
        "message": "expected one of your files, got 'file_0'",
        "type": "invalid_request_error",
        "param": "file_id",
        "code": "not_found",
    },
    "request_id": "7f3c1a5e9b2d4c608f1e2d3c4b5a6978",
}
EVENTS = (
    "retry: 1000\n\nid: 2\nevent: clip\n"
    'data: {"at_s": 1764000001.2, "index": 0, "start_s": 0.0, "end_s": 10.0, "text": "A cat jumps onto a table."}\n\n'
)
RESULT_TEXTS = {
    "vtt": "WEBVTT\n\n1\n00:00:00.000 --> 00:00:10.000\nA cat jumps onto a table.\n",
    "srt": "1\n00:00:00,000 --> 00:00:10,000\nA cat jumps onto a table.\n",
    "csv": "index,start_s,end_s,text\n0,0.0,10.0,A cat jumps onto a table.\n",
    "md": "# cats.mp4\n\n* 00:00 – 00:10 A cat jumps onto a table.\n",
}
"""The beginnings of results in the other formats, shortened."""


def shown(example: JsonValue) -> JsonDict:
    """Return what a model's `json_schema_extra` has to be to show the example."""
    return {"examples": [example]}


def page_of(*data: JsonValue, first: JsonValue, last: JsonValue) -> JsonDict:
    """Return a list with this one page."""
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": False}


def deleted(example: dict[str, JsonValue]) -> JsonDict:
    """Return what the removal of the object is answered with."""
    return {"id": example["id"], "object": example["object"], "deleted": True}
