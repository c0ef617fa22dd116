"""The fixtures that start Ray; only the folders that need it have them."""

from tests.ray_cluster import cluster, sample

__all__ = ["cluster", "sample"]
