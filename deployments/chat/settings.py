"""The settings of chat models: which there are, and which one answers by default."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.chat.extractive import NAME as EXTRACTIVE

ChatModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class ExtractiveSettings(BaseModel):
    """A model that is none: it quotes the timeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Literal["extractive"] = "extractive"


class ChatSettings(BaseModel):
    """The chat models by name. Without a word of them there is the one that needs no key and no network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[dict[ChatModelName, ExtractiveSettings], Field(min_length=1)] = {EXTRACTIVE: ExtractiveSettings()}
    default_model: str = EXTRACTIVE

    @model_validator(mode="after")
    def _consistent(self) -> "ChatSettings":
        if self.default_model not in self.models:
            raise ValueError(f"default_model must be one of {', '.join(self.models)}, got {self.default_model!r}")
        return self
