import os
import tempfile

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# The machine is shared and noisy: a slow example is no failure.
settings.register_profile("vidray", deadline=None, max_examples=200, derandomize=True)
settings.load_profile("vidray")

_CACHE = tempfile.TemporaryDirectory(prefix="vidray-tests-cache-")
# What others keep there stays where it is.
os.environ.setdefault("HF_HOME", os.path.expanduser("~/.cache/huggingface"))
# What commands remember of earlier runs is a user's, and not of tests.
os.environ["XDG_CACHE_HOME"] = _CACHE.name


class _OneCluster(LoadScopeScheduling):  # type: ignore[misc]
    """One of pytest-xdist's processes runs all tests with Ray, which share a cluster, the others the rest by file."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "with Ray" if _needs_ray(path) else path


def _needs_ray(path: str) -> bool:
    return path.startswith(("tests/serve/", "tests/chaos/"))


@pytest.hookimpl(optionalhook=True)  # of a plugin that may be off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _OneCluster(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest."""
    items.sort(key=lambda item: _needs_ray(item.nodeid), reverse=True)
