"""The application's settings: the `args` of serve_config.yaml."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.settings import VisionSettings

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class AppArgs(BaseModel):
    """Which models the app serves and how videos are decoded. Replicas and resources stand beside it in the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[dict[ModelName, VisionSettings], Field(min_length=1)]
    """Each named model gets a Serve deployment of its own, `vision-NAME`."""
    default_model: str
    decode_cpus: Annotated[float, Field(gt=0.0, le=64.0)] = 1.0
    """CPUs that Ray accounts to one decode task."""

    in_flight_clips: Annotated[int, Field(ge=1, le=4096)] = 32
    """Most clips of one runner between decoder and commit: at least two batches per replica keep every engine busy."""

    @model_validator(mode="after")
    def _consistent(self) -> "AppArgs":
        if self.default_model not in self.models:
            raise ValueError(f"default_model must be one of {', '.join(self.models)}, got {self.default_model!r}")
        return self
