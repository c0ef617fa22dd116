"""Vectors by a model outside, over real HTTP from a server on loopback that fails as it is told to."""

import asyncio
from typing import Any

import numpy as np
import pytest

from benchmarks.stub_upstream import DIMENSIONS, Fault, Stub, stub_upstream
from deployments.chat.contracts import Embedded
from deployments.chat.embedder import LitellmEmbedder
from deployments.chat.keys import Keys
from deployments.chat.settings import EmbeddingSettings, Upstream
from deployments.errors import AppError, UpstreamFailed, UpstreamRefused, UpstreamSlow

# litellm's own modules warn while they are imported, which they are at the first call.
pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("default")]


def embed(stub: Stub, *texts: str, **settings: Any) -> Embedded:
    upstream = Upstream(model="openai/stub", api_base=stub.url, api_key_env="STUB_KEY")
    embedder = LitellmEmbedder(EmbeddingSettings(upstream=upstream, **settings), Keys())
    return asyncio.run(embedder.embed(texts))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "sk-canary")


def test_texts_of_like_meaning_are_near_each_other() -> None:
    with stub_upstream() as stub:
        stub.same = {"automobile": "car"}
        embedded = embed(stub, "a red car", "a red automobile", "green grass grows", "")
        assert embedded.vectors.shape == (4, DIMENSIONS)
        assert embedded.vectors.dtype == np.float32
        near = embedded.vectors @ embedded.vectors[0]
        assert near.tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-6)
        assert (embedded.usage.prompt_tokens, embedded.usage.completion_tokens) == (9, 0)
        [asked] = stub.asked
        assert (asked.key, asked.body["input"][0]) == ("sk-canary", "a red car")


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=429), Fault(malformed=True), Fault(cut_after=3)])
def test_what_passes_is_asked_for_again(fault: Fault) -> None:
    with stub_upstream(fault) as stub:
        assert embed(stub, "a").vectors.shape == (1, DIMENSIONS)
        assert len(stub.asked) == 2


@pytest.mark.parametrize(
    ("faults", "kind", "calls"),
    [
        ([Fault(status=500)] * 3, UpstreamFailed, 3),
        ([Fault(status=401)], UpstreamRefused, 1),
        ([Fault(hang_s=30.0)], UpstreamSlow, 1),
    ],
)
def test_what_does_not_pass_is_told_without_a_word_of_the_upstreams(
    faults: list[Fault], kind: type[AppError], calls: int
) -> None:
    with stub_upstream(*faults) as stub:
        with pytest.raises(AppError) as raised:
            embed(stub, "a", deadline_s=5.0 if kind is not UpstreamSlow else 0.5)
        assert type(raised.value) is kind
        assert "sk-canary" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert len(stub.asked) == calls
