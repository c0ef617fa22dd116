"""What cluster/README.md says to type."""

import re

from serve_app import cluster_app
from tests.ray_cluster import ROOT

README = (ROOT / "cluster" / "README.md").read_text()


def test_what_vidray_serve_sets_is_what_a_cluster_of_ones_own_is_told_to_set() -> None:
    assert dict(re.findall(r"^export (\w+)=(\S+)", README, re.MULTILINE)) == cluster_app._RAY_ENVIRONMENT
