"""Make the provider that a chat model's settings ask for."""

from deployments.chat.contracts import Provider
from deployments.chat.extractive import Extractive
from deployments.chat.settings import ExtractiveSettings


def provider(settings: ExtractiveSettings) -> Provider:
    """Return what answers for the model."""
    return Extractive()
