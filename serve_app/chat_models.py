"""The chat models of the config, each behind what answers for it."""

from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.chat.client import ChatClient
from deployments.chat.contracts import Provider
from deployments.chat.extractive import Extractive
from deployments.chat.settings import ChatSettings, LitellmSettings, ProviderSettings, VisionChatSettings
from deployments.chat.vision_provider import VisionProvider
from deployments.vision.client import VisionClient


def chat_models(
    settings: ChatSettings, proxy: "DeploymentHandle[Any] | None", clients: Mapping[str, VisionClient]
) -> dict[str, Provider]:
    """Return the providers by name: `proxy` is the ChatProxy, `clients` reach the vision models by their names."""

    def provider(name: str, one: ProviderSettings) -> Provider:
        if isinstance(one, LitellmSettings):
            assert proxy is not None, "build_app deploys it for them"
            return ChatClient(name, one, proxy)
        return VisionProvider(one, clients[one.model]) if isinstance(one, VisionChatSettings) else Extractive()

    return {name: provider(name, one) for name, one in settings.models.items()}
