"""The application's settings: the `args` of serve_config.yaml."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments.chat.settings import ChatSettings, CloudVisionSettings, VisionChatSettings
from deployments.settings import MAX_BATCH_CLIPS, VisionSettings

GATEWAY, RUNNER, CLOUD_VISION = "gateway", "runner", "cloud-vision"
"""The deployments beside those of the models, as serve_config.yaml must spell them."""
MODEL = "model:"
"""What the keyword argument with a model's handle begins with, so that no model's name is one of Python's."""
HostAndPort = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$")]
HostName = Annotated[str, Field(pattern=r"^[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class StorageSettings(BaseModel):
    """Where files, uploads and analyses are kept, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = "~/.vidray"
    """A directory that every node sees, or s3://, gs://, az://."""
    max_file_bytes: Annotated[int, Field(ge=1, le=80 * 10**9)] = 64 * 2**30
    """Most bytes of one video; a store takes 10,000 parts of 8 MiB."""
    max_part_bytes: Annotated[int, Field(ge=2**20, le=64 * 2**20)] = 64 * 2**20
    """Most bytes of a file in one request, which Serve's proxy holds in memory; larger files are sent in parts."""
    upload_ttl_s: Annotated[int, Field(ge=60)] = 24 * 3600
    """An upload that is not complete after so many seconds is abandoned, and its parts are removed."""
    keep_files_s: Annotated[int, Field(ge=60)] | None = None
    """Seconds after which an uploaded video is deleted; None: when its owner deletes it."""
    sweep_every_s: Annotated[float, Field(gt=0.0)] = 300.0
    """How often what has had its time is looked for."""

    @field_validator("target")
    @classmethod
    def _same_everywhere(cls, target: str) -> str:
        if "://" not in target and not target.startswith(("/", "~")):
            # A replica's working directory is not the one that the config was written in.
            raise ValueError(f"expected an absolute path, ~/… or a URL, got {target!r}")
        return target


class SourceSettings(BaseModel):
    """From where a video that is named by its `url` is read: from nowhere until one of the lists holds something.

    The lists are the fence: who controls a listed host, its name in the DNS or a listed directory decides what is read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_hosts: tuple[HostAndPort, ...] = ()
    """`host`, which stands for the scheme's own port, or `host:port`; no other name or address of it counts."""
    allowed_directories: tuple[str, ...] = ()
    """Absolute paths that every node sees; links out of them are not followed."""
    idle_s: Annotated[float, Field(gt=0.0, le=600.0)] = 15.0
    """A host that sends nothing for so long is given up, in seconds."""
    deadline_s: Annotated[float, Field(gt=0.0, le=24 * 3600.0)] = 600.0
    """Most seconds for all bytes of one video, for which the client waits."""

    @field_validator("allowed_directories")
    @classmethod
    def _absolute(cls, directories: tuple[str, ...]) -> tuple[str, ...]:
        for directory in directories:
            if not directory.startswith("/"):
                raise ValueError(f"expected absolute paths, got {directory!r}")
        return directories


class AdmissionSettings(BaseModel):
    """Most that one gateway replica has under way at once; what is more gets 503 and may come again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uploads: Annotated[int, Field(ge=1, le=1000)] = 32
    """Requests with bytes of a video, each of which may hold `max_part_bytes` of memory in Serve's proxy."""
    downloads: Annotated[int, Field(ge=1, le=1000)] = 64
    """Requests for bytes of a video."""
    watchers: Annotated[int, Field(ge=1, le=6000)] = 4000
    """Event streams and WebSockets."""
    chats: Annotated[int, Field(ge=1, le=1000)] = 200
    """Answers under way, which last as long as a model outside takes."""
    requests: Annotated[int, Field(ge=1, le=1000)] = 500
    """All others; what asks for the gateway's health is not counted."""
    queued_analyses: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Analyses that are not done, of all owners together."""


class AppArgs(BaseModel):
    """Which models the app serves, where it keeps files, how it decodes. Replicas and resources stand beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[dict[ModelName, VisionSettings], Field(min_length=1)]
    """Each named model gets a Serve deployment of its own, `vision-NAME`."""
    default_model: str
    """The one of `models` that describes where a request names none."""
    host_names: tuple[HostName, ...] = ()
    """By which names clients may ask, without ports: `myserver` for http://myserver:8000. IP addresses and localhost
    are always right; any other name could be one that a web page has pointed here to read what is not its own."""
    storage: StorageSettings = StorageSettings()
    sources: SourceSettings = SourceSettings()
    admission: AdmissionSettings = AdmissionSettings()
    chat: ChatSettings = ChatSettings()
    cloud_vision: CloudVisionSettings | None = None
    """None: no frame ever leaves the cluster, whatever an analysis allows."""
    decode_cpus: Annotated[float, Field(gt=0.0, le=64.0)] = 1.0
    """CPUs that Ray accounts to one decode task."""
    in_flight_clips: Annotated[int, Field(ge=1, le=4096)] = MAX_BATCH_CLIPS
    """Most clips of one runner between decoder and commit: as many as its replicas have under way keep them busy."""

    @model_validator(mode="after")
    def _consistent(self) -> "AppArgs":
        if self.default_model not in self.models:
            raise ValueError(f"default_model must be one of {', '.join(self.models)}, got {self.default_model!r}")
        if both := sorted(set(self.models) & set(self.chat.models)):
            raise ValueError(f"chat models must have names of their own, got a vision model's: {both[0]!r}")
        for name, one in self.chat.models.items():
            if isinstance(one, VisionChatSettings) and one.model not in self.models:
                served = ", ".join(self.models)
                raise ValueError(f"chat model {name!r} must be one of the vision models {served}, got {one.model!r}")
        return self
