"""What crosses a process on the way from a question to an answer: turns and passages in, pieces of text out."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from deployments.contracts import Turn

FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Passage:
    """What the timeline says of a stretch of a video; `mark` is how an answer cites it.

    `text` comes from a model that looked at pixels, and may hold what was written there: data, never instructions.
    """

    mark: str
    analysis_id: str
    clip: int
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How the answer is written; None leaves it to the model."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The conversation so far, its last turn a user's, and what was found for it, best first.

    `covered` says in words how much of the videos is described; `about` names the analyses, none for a chat about no
    video.
    """

    turns: tuple[Turn, ...]
    about: tuple[str, ...] = ()
    passages: tuple[Passage, ...] = ()
    covered: str = ""
    options: ChatOptions = field(default_factory=ChatOptions)

    def __post_init__(self) -> None:
        if not self.turns or self.turns[-1].by != "user":
            raise ValueError("a chat must end with a user's turn, got another")


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost: tokens as its model counts them, and US dollars, None where there is no price for it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """The next words of an answer; the last piece has `finish_reason`, `usage` and who `served_by`.

    The `usage` of a piece before that, which may have no words, is what the answer has taken until then, estimated: for
    one that never comes to its end.
    `attempts` counts the calls of models outside that the answer took, those that failed among them.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    served_by: str | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """Texts as vectors: float32 (N, D), each row of length 1, texts of like meaning near each other."""

    vectors: npt.NDArray[np.float32]
    usage: Usage


class Embedder(Protocol):
    """Turns texts into vectors."""

    name: str
    """Of the model and where it is: vectors of two names are not compared."""
    leaves_premises: bool
    """Whether the texts go to somebody else."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Return a vector for each text, at least one. Raises AppError."""
        ...


class Provider(Protocol):
    """Answers chats, ignorant of HTTP; `kind` is what `provider` is in the settings."""

    kind: str
    leaves_premises: bool
    """Whether what it is asked goes to somebody else."""

    def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; the last piece, and only that, has a `finish_reason`. Raises AppError."""
        ...
