import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The machine is shared and noisy: a slow example is no failure.
settings.register_profile("vidray", deadline=None, max_examples=200, derandomize=True)
settings.load_profile("vidray")

_CACHE = tempfile.TemporaryDirectory(prefix="vidray-tests-cache-")
# What others keep there stays where it is.
os.environ.setdefault("HF_HOME", os.path.expanduser("~/.cache/huggingface"))
# What commands remember of earlier runs is a user's, and not of tests.
os.environ["XDG_CACHE_HOME"] = _CACHE.name

_TESTS = Path(__file__).parent
_WITH_RAY = ("serve", "chaos")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one of pytest-xdist's processes run all tests with Ray, which share a cluster, and first: they take longest.

    The others run the rest, file by file.
    """

    def needs_ray(item: pytest.Item) -> bool:
        return item.path.relative_to(_TESTS).parts[0] in _WITH_RAY

    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray(item) else str(item.path.relative_to(_TESTS))))
    items.sort(key=needs_ray, reverse=True)
