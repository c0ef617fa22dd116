"""The settings of chat models: which there are, who answers for them, and which one answers by default."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.chat.extractive import NAME as EXTRACTIVE
from deployments.contracts import MOST_TOKENS

ChatModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExtractiveSettings(_Frozen):
    """A model that is none: it quotes the timeline."""

    provider: Literal["extractive"] = "extractive"


class Upstream(_Frozen):
    """A language model that litellm can reach."""

    model: Annotated[str, Field(min_length=1)]
    """As litellm spells it: `openai/gpt-4o-mini`, `anthropic/claude-sonnet-4-5`, `hosted_vllm/NAME`, …"""
    api_base: str | None = None
    """Its address, where that is not the provider's own."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """The environment variable, here or in `env_file`, with its key; None: it needs none."""


class LitellmSettings(_Frozen):
    """A model that others serve: the first of the upstreams that answers."""

    provider: Literal["litellm"]
    upstreams: Annotated[tuple[Upstream, ...], Field(min_length=1, max_length=8)]
    """Who is asked, in this order, each `attempts` times."""
    leaves_premises: bool = True
    """Whether what it is asked goes to somebody else: then it answers about analyses with `allow_cloud` alone."""
    max_tokens: Annotated[int, Field(ge=1, le=2**20)] = 1024
    """Of an answer, where the client does not say."""
    deadline_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 60.0
    """Most seconds for a whole answer, with all attempts at it."""
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 32
    """Most answers under way in one replica; what is more gets 503 and may come again."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Of one upstream, before the next one is asked."""
    first_wait_s: Annotated[float, Field(ge=0.0, le=60.0)] = 1.0
    """Before the second attempt; each later one waits twice as long, and all as long as the upstream asks for."""
    cached_answers: Annotated[int, Field(ge=0, le=100_000)] = 256
    """The same request again gets the same answer at no cost, for so many of the latest in one replica; 0: none."""


class EmbeddingSettings(_Frozen):
    """A model that turns texts into vectors, so that a question finds captions of its meaning in other words."""

    upstream: Upstream
    """The model that makes them."""
    leaves_premises: bool = True
    """Whether captions and questions go to somebody else: then those of analyses with `allow_cloud` alone do."""
    deadline_s: Annotated[float, Field(gt=0.0, le=600.0)] = 10.0
    """Most seconds for one call, with all attempts at it."""
    texts_per_call: Annotated[int, Field(ge=1, le=2048)] = 256
    """Most captions or questions in one call."""

    @property
    def name(self) -> str:
        """What tells its vectors from others."""
        return f"{self.upstream.model} {self.upstream.api_base or ''}".strip()


class VisionChatSettings(_Frozen):
    """A model that is one of the app's vision models, too, asked without pixels; the answer comes in one piece.

    It writes greedily or at a temperature; a client's `top_p` does not count.
    """

    provider: Literal["vision"]
    model: Annotated[str, Field(min_length=1)]
    """Its name among the app's `models`. The demo model knows nothing but scenes: it is no chat model."""
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 512
    """Of an answer, where the client does not say."""
    deadline_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 120.0
    """Most seconds for an answer; it waits among the clips."""


class CloudVisionSettings(_Frozen):
    """The model outside that describes clips which no local one does, of analyses with `allow_cloud` alone."""

    by: LitellmSettings
    """It must take pictures. What an analysis says (`allow_cloud`, `max_tokens`) counts here, and no answer is kept."""
    jpeg_quality: Annotated[int, Field(ge=10, le=95)] = 85
    """Of the frames that are sent, at the size that the local model takes them."""
    local_patience_s: Annotated[float, Field(gt=0.0, le=900.0)] = 60.0
    """How long a local model may go without any answer before a clip is put to this one."""
    burst_factor: Annotated[float, Field(gt=1.0, le=1000.0)] | None = 2.0
    """Clips go outside beside a busy local model while more wait than so many times what it describes within
    `burst_wait_s`, until no more than once that wait; None: only those that it fails."""
    burst_wait_s: Annotated[float, Field(gt=0.0, le=24 * 3600.0)] = 60.0
    """The wait that is aimed at."""
    burst_clips: Annotated[int, Field(ge=1, le=1000)] = 8
    """Most clips of one model outside at once in a burst."""


ProviderSettings = Annotated[ExtractiveSettings | VisionChatSettings | LitellmSettings, Field(discriminator="provider")]


class SecondLookSettings(_Frozen):
    """A second look at the frames: for a question about a moment whose captions share no word with it."""

    clips: Annotated[int, Field(ge=1, le=8)] = 3
    """Most of them for one question, the first ones at that moment."""
    deadline_s: Annotated[float, Field(gt=0.0, le=600.0)] = 30.0
    """Seconds that an answer may wait for it; then it is given without."""


class ChatSettings(_Frozen):
    """The chat models by name. Without a word of them there is the one that needs no key and no network."""

    models: Annotated[dict[ChatModelName, ProviderSettings], Field(min_length=1)] = {EXTRACTIVE: ExtractiveSettings()}
    """Who may be asked, by the name that a request gives."""
    default_model: str = EXTRACTIVE
    """The one of `models` that answers where a request names none."""
    summary_model: str | None = None
    """The model that writes the summaries of analyses that it may be told about; None: they quote captions."""
    summary_chars: Annotated[int, Field(ge=8_000, le=4_000_000)] = 24_000
    """Most characters of captions in one of its calls; a token is about four of English text."""
    embeddings: EmbeddingSettings | None = None
    """None: captions are found by their words alone."""
    second_look: SecondLookSettings | None = SecondLookSettings()
    """By the vision model that described the clips, on the premises; None: answers rest on captions alone."""
    env_file: Annotated[str, Field(pattern=r"^/")] | None = None
    """A file of NAME=value lines on every node, read again when it changes: keys are rotated without a restart."""
    usd_per_owner_per_day: Annotated[float, Field(gt=0.0)] | None = None
    """What one owner's chats may cost in a day (UTC); None: no limit. A model without a known price counts nothing."""
    tokens_per_owner_per_day: Annotated[int, Field(ge=1)] | None = None
    """Tokens that one owner's chats may take in a day (UTC); None: no limit."""

    @model_validator(mode="after")
    def _consistent(self) -> "ChatSettings":
        if self.default_model not in self.models:
            raise ValueError(f"default_model must be one of {', '.join(self.models)}, got {self.default_model!r}")
        tellers = [name for name, one in self.models.items() if not isinstance(one, ExtractiveSettings)]
        if self.summary_model is not None and self.summary_model not in tellers:
            told = ", ".join(tellers) or "none"
            raise ValueError(f"summary_model must be one that writes, of these: {told}, got {self.summary_model!r}")
        return self

    @property
    def asks_outside(self) -> bool:
        """Whether there is anything for the ChatProxy deployment to do."""
        return bool(self.proxied) or self.embeddings is not None

    @property
    def proxied(self) -> dict[str, LitellmSettings]:
        """The models that the ChatProxy deployment answers for."""
        return {name: one for name, one in self.models.items() if isinstance(one, LitellmSettings)}
