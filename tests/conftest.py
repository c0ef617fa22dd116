import os
import tempfile

from hypothesis import settings

# The machine is shared and noisy: a slow example is no failure.
settings.register_profile("vidray", deadline=None, max_examples=200, derandomize=True)
settings.load_profile("vidray")

_CACHE = tempfile.TemporaryDirectory(prefix="vidray-tests-cache-")
# What others keep there stays where it is.
os.environ.setdefault("HF_HOME", os.path.expanduser("~/.cache/huggingface"))
# What commands remember of earlier runs is a user's, and not of tests.
os.environ["XDG_CACHE_HOME"] = _CACHE.name
