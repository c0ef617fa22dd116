"""Call the ChatProxy's replicas."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.chat.contracts import ChatRequest, Embedded, Piece
from deployments.chat.settings import EmbeddingSettings, LitellmSettings
from deployments.ray_errors import answer_of, translate

CHAT = "chat"
"""The deployment, as serve_config.yaml must spell it."""


class ChatClient:
    """One model of the ChatProxy; a provider like those that need no replica."""

    kind = "litellm"

    def __init__(self, name: str, settings: LitellmSettings, handle: "DeploymentHandle[Any]") -> None:
        self.leaves_premises = settings.leaves_premises
        self._name = name
        self._handle = handle.options(stream=True)

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer. Raises ReplicaLost, Overloaded, and what LitellmProvider.answer raises."""
        pieces: Any = self._handle.answer.remote(self._name, request)
        ended = False
        try:
            async for piece in pieces:
                yield piece
            ended = True
        except (RayError, RayServeException) as error:
            ended = True
            raise translate(error) from error
        finally:
            if not ended:
                pieces.cancel()


class EmbeddingClient:
    """The embedder of the ChatProxy."""

    def __init__(self, settings: EmbeddingSettings, handle: "DeploymentHandle[Any]") -> None:
        self.name = settings.name
        self.leaves_premises = settings.leaves_premises
        self._handle = handle

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Return a vector for each text. Raises ReplicaLost, Overloaded, and what LitellmEmbedder.embed raises."""
        embedded: Embedded = await answer_of(self._handle.embed.remote(list(texts)))
        return embedded
