"""What an answer outside has taken until now: its provider tells that at its end alone, which may never come."""

from deployments.chat.contracts import Usage
from deployments.chat.litellm_calls import usage_of
from deployments.chat.settings import Upstream

_BYTES_PER_TOKEN = 4
"""Of English text; letters of two or three bytes are fewer to a token, so that other scripts are near it, too."""


class Estimate:
    """Counts the UTF-8 bytes of one call to `upstream`, which is asked `asked_bytes`."""

    def __init__(self, upstream: Upstream, asked_bytes: int) -> None:
        self._asked = usage_of(upstream, Usage(_tokens(asked_bytes)))
        # Once: litellm takes too long over a price to be asked for every word.
        self._usd_per_token = usage_of(upstream, Usage(0, 1)).usd
        self._said_bytes = 0

    def after(self, text: str) -> Usage:
        """Return what the call has taken with this text more."""
        self._said_bytes += len(text.encode())
        said = _tokens(self._said_bytes)
        if self._asked.usd is None or self._usd_per_token is None:
            return Usage(self._asked.prompt_tokens, said, None)
        return Usage(self._asked.prompt_tokens, said, self._asked.usd + said * self._usd_per_token)


def _tokens(size_bytes: int) -> int:
    return -(-size_bytes // _BYTES_PER_TOKEN)
