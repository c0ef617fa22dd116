"""How the service stands in figures: the answer of `GET /v1/stats`, with what each field means."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.vision.deployment import ModelState

Severity = Literal["warning", "critical"]
AlertCode = Literal[
    "storage_nearly_full",
    "storage_full",
    "model_load_failed",
    "model_without_replica",
    "queue_stuck",
    "clips_failing",
    "no_runner",
]


class Alert(BaseModel):
    """Something that a person should look at. `message` is one line without ids."""

    code: AlertCode
    severity: Severity
    message: str
    model: str | None = Field(default=None, description="the model that it is about")
    since: float | None = Field(default=None, description="when this gateway replica first saw it, seconds since 1970")


class ReplicaCount(BaseModel):
    """Replicas of one deployment: those that serve, and how many Serve is to have."""

    running: int
    wanted: int


_UNKNOWN = "; null while Serve's controller does not answer"


class FinishedAnalyses(BaseModel):
    completed: int = 0
    partial: int = 0
    failed: int = 0
    cancelled: int = 0


class AnalysisFigures(BaseModel):
    """All owners' analyses. `queued` and `running` follow the runners' reports, at most some seconds late."""

    queued: int = Field(description="accepted and not begun, or waiting for a retry")
    running: int
    oldest_queued_s: float | None = Field(description="how long the first of the queued has waited; null: none is")
    finished_last_hour: FinishedAnalyses = Field(description="rounds that ended, a retry for itself")


class ClipFigures(BaseModel):
    """All owners' clips, by the runners' reports. A runner that is killed takes its last two seconds with it."""

    in_flight: int = Field(description="sent to a model and not answered")
    window_s: float = Field(description="what the next five are over: the present minute and the four before it")
    described: int
    reused: int = Field(description="captions of earlier analyses")
    failed: int
    failed_by_code: dict[str, int]
    described_per_s: float
    reused_share_last_hour: float | None = Field(description="of the captions; null: there was none")
    last_at: float | None = Field(description="when a clip last got an outcome, seconds since 1970; null: not known of")


class DeviceMemory(BaseModel):
    """The memory of the device that a model runs on: a GPU's, or the machine's."""

    allocated_bytes: int = Field(description="by the replica's process")
    reserved_bytes: int = Field(description="by it, with what its allocator keeps for later")
    free_bytes: int = Field(description="what clips could still take beside the loaded model")


class ModelFigures(BaseModel):
    """A model. `state` and `error` are as `/v1/models` has them: one replica's."""

    id: str
    state: ModelState
    error: str | None
    replicas: ReplicaCount | None = Field(description="replicas of its deployment" + _UNKNOWN)
    clips_in_flight: int = Field(description="sent to any of its replicas and not answered")
    clips_queued: int | None = Field(
        description="wait inside the replica for an engine call; null with more than one, of which only one answers"
    )
    memory: DeviceMemory | None = Field(description="of one replica at its last batch; null: not loaded, or no bound")


class StorageFigures(BaseModel):
    kind: Literal["local", "s3", "gs", "az", "memory", "other"]
    free_bytes: int | None = Field(description="of a local directory's disk; null: an object store knows no end")
    admitting: bool = Field(description="whether uploads and analyses are taken in")


class UploadFigures(BaseModel):
    """Uploads in parts that have begun and not ended, counted when old ones are swept, every few minutes."""

    pending: int | None = Field(description="null: this gateway replica has not counted yet")
    counted_at: float | None


class GatewayFigures(BaseModel):
    """`uptime_s` and `watchers` are those of the gateway replica that answers."""

    replicas: ReplicaCount | None = Field(description="of the gateway's deployment" + _UNKNOWN)
    uptime_s: float
    watchers: int = Field(description="streams and sockets that wait for an analysis's next event")


class Stats(BaseModel):
    """The service in figures, taken at most once a second.

    They are of all owners and the same at every gateway replica, but for what says that it is the replica's own.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "stats",
                    "at": 1767225600.0,
                    "version": "0.1.0",
                    "analyses": {
                        "queued": 3,
                        "running": 2,
                        "oldest_queued_s": 4.2,
                        "finished_last_hour": {"completed": 17, "partial": 1, "failed": 0, "cancelled": 2},
                    },
                    "clips": {
                        "in_flight": 16,
                        "window_s": 270.0,
                        "described": 540,
                        "reused": 60,
                        "failed": 1,
                        "failed_by_code": {"clip_undecodable": 1},
                        "described_per_s": 2.0,
                        "reused_share_last_hour": 0.1,
                        "last_at": 1767225599.5,
                    },
                    "models": [
                        {
                            "id": "demo",
                            "state": "failed",
                            "error": "expected the weights of the checkpoint, got none",
                            "replicas": {"running": 1, "wanted": 1},
                            "clips_in_flight": 16,
                            "clips_queued": 8,
                            "memory": {
                                "allocated_bytes": 6442450944,
                                "reserved_bytes": 8589934592,
                                "free_bytes": 17179869184,
                            },
                        }
                    ],
                    "runners": {"running": 1, "wanted": 1},
                    "gateway": {"replicas": {"running": 1, "wanted": 1}, "uptime_s": 86400.0, "watchers": 5},
                    "storage": {"kind": "local", "free_bytes": 8589934592, "admitting": True},
                    "uploads": {"pending": 1, "counted_at": 1767225400.0},
                    "alerts": [
                        {
                            "code": "storage_nearly_full",
                            "severity": "warning",
                            "message": "expected 10 GiB free on the storage's disk, got 8.0 GiB",
                            "model": None,
                            "since": 1767225000.0,
                        }
                    ],
                }
            ]
        }
    )

    object: Literal["stats"] = "stats"
    at: float = Field(description="when the figures were taken, seconds since 1970")
    version: str
    analyses: AnalysisFigures
    clips: ClipFigures
    models: list[ModelFigures] = Field(description="the default one first")
    runners: ReplicaCount | None = Field(description="replicas of the runner's deployment" + _UNKNOWN)
    gateway: GatewayFigures
    storage: StorageFigures
    uploads: UploadFigures
    alerts: list[Alert] = Field(description="the critical ones first")
