"""The replica that asks models outside, for answers and for vectors: a shell around what does."""

from collections.abc import AsyncGenerator, Sequence

from deployments.chat.contracts import ChatRequest, Embedded, Piece
from deployments.chat.embedder import LitellmEmbedder
from deployments.chat.keys import Keys
from deployments.chat.litellm_provider import LitellmProvider
from deployments.chat.settings import ChatSettings


class ChatProxy:
    """A plain class: `build_app` makes it a Serve deployment. It needs a CPU's fraction and a line to the models."""

    def __init__(self, settings: ChatSettings) -> None:
        keys = Keys(settings.env_file)
        self._providers = {name: LitellmProvider(one, keys) for name, one in settings.proxied.items()}
        self._embedder = None if settings.embeddings is None else LitellmEmbedder(settings.embeddings, keys)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Return a vector for each text. Raises what LitellmEmbedder.embed raises."""
        assert self._embedder is not None, "nobody asks without the settings"
        return await self._embedder.embed(texts)

    async def answer(self, model: str, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield the model's answer. Raises what LitellmProvider.answer raises."""
        async for piece in self._providers[model].answer(request):
            yield piece
