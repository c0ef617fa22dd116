"""litellm's set-up, its errors as ours, and what its calls cost: for the modules that call models outside.

Not through its Router: that hides whether the provider ended a stream or the line was cut, and its own cooldowns and
retries would make calls that nobody recorded (docs/decisions/0017).
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# At its import litellm would fetch a price list from a host of its own; the one that it ships is used.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
import openai
from litellm import exceptions as told

from deployments.chat.contracts import Usage
from deployments.chat.keys import Keys
from deployments.chat.settings import Upstream
from deployments.errors import AppError, UpstreamRefused

litellm.telemetry = False
litellm.suppress_debug_info = True
# For vectors it takes a 0 that it is given for nothing given.
litellm.DEFAULT_MAX_RETRIES = 0  # type: ignore[attr-defined]
for _name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
    # Its lines quote what providers say, and they quote keys. What failed is told by our own.
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

FINAL = (
    told.AuthenticationError,
    told.BadRequestError,
    told.NotFoundError,
    told.PermissionDeniedError,
    told.UnprocessableEntityError,
)
"""What the same request will get again; the classes below BadRequestError, such as too much text, among them."""
PASSING = (
    told.APIConnectionError,
    told.APIError,
    told.APIResponseValidationError,
    told.BadGatewayError,
    told.InternalServerError,
    told.RateLimitError,
    told.ServiceUnavailableError,
    told.Timeout,
)
_PASSING_STATUSES = (408, 409, 425, 429)
_ONCE = {"max_retries": 0, "num_retries": 0}
"""Whoever calls tries again, and counts."""


@dataclass(slots=True)
class Miss(Exception):
    """An attempt that brought nothing; `again_s`: how long the upstream wants to be left alone."""

    why: str
    passing: bool
    again_s: float = 0.0


def key_for(upstream: Upstream, keys: Keys) -> str:
    """Return the key that the upstream wants. Raises Miss where it is not there."""
    try:
        key = None if upstream.api_key_env is None else keys.get(upstream.api_key_env)
    except UpstreamRefused as error:
        raise Miss(error.message, passing=False) from None
    return key or "none"  # without one litellm would look for another in the environment


async def completion(**arguments: Any) -> Any:
    """Return litellm's stream of an answer. Raises what litellm raises."""
    return await litellm.acompletion(stream=True, stream_options={"include_usage": True}, **_ONCE, **arguments)


async def embedding(**arguments: Any) -> Any:
    """Return litellm's vectors. Raises what litellm raises."""
    return await litellm.aembedding(encoding_format="float", **_ONCE, **arguments)


@contextmanager
def translated() -> Iterator[None]:
    """Raise Miss for what litellm raises. Its messages stay here: they quote keys."""
    try:
        yield
    except (AppError, asyncio.CancelledError):
        raise
    except FINAL as error:
        raise Miss(type(error).__name__, passing=False) from None
    except (*PASSING, openai.APIError, OSError) as error:
        # Some refusals come without a class of their own.
        status = getattr(error, "status_code", None) or 500
        passing = status >= 500 or status in _PASSING_STATUSES
        raise Miss(f"{type(error).__name__} {status}", passing, _again_s(error)) from None


def _again_s(error: BaseException) -> float:
    """Return the seconds of the answer's `Retry-After`, 0 where it has none, or a date."""
    headers = getattr(error, "litellm_response_headers", None) or {}
    asked = headers.get("retry-after", "")
    return float(asked) if asked.replace(".", "", 1).isdecimal() else 0.0


def usage_of(upstream: Upstream, usage: Any) -> Usage:
    prompt, completion = getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0
    try:
        costs = litellm.cost_per_token(model=upstream.model, prompt_tokens=prompt, completion_tokens=completion)
        usd: float | None = sum(costs)
    except Exception:
        # There are as many classes for "no price is known" as providers.
        usd = None
    return Usage(prompt, completion, usd)
