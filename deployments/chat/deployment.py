"""The replica that answers chats by models outside: a shell around their providers."""

from collections.abc import AsyncGenerator

from deployments.chat.contracts import ChatRequest, Piece
from deployments.chat.keys import Keys
from deployments.chat.litellm_provider import LitellmProvider
from deployments.chat.settings import ChatSettings


class ChatProxy:
    """A plain class: `build_app` makes it a Serve deployment. It needs a CPU's fraction and a line to the models."""

    def __init__(self, settings: ChatSettings) -> None:
        keys = Keys(settings.env_file)
        self._providers = {name: LitellmProvider(one, keys) for name, one in settings.proxied.items()}

    async def answer(self, model: str, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Yield the model's answer. Raises what LitellmProvider.answer raises."""
        async for piece in self._providers[model].answer(request):
            yield piece
