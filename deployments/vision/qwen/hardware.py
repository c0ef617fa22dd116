"""What this machine has for a model to run on."""

import importlib.util
from dataclasses import dataclass
from importlib import metadata

import torch


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device as PyTorch sees it; `capability` is (major, minor), memory in bytes."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


def torch_build() -> str:
    """Return PyTorch's version with the CUDA that it was built for, if any."""
    return f"PyTorch {torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs'}"


def cuda_version() -> tuple[int, int] | None:
    """Return the CUDA (major, minor) that PyTorch was built for, None of a build for CPUs."""
    if torch.version.cuda is None:
        return None
    major, minor = torch.version.cuda.split(".")[:2]
    return int(major), int(minor)


def gpus() -> list[Gpu]:
    """Return the CUDA devices that PyTorch can use."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        known = torch.cuda.get_device_properties(index)
        found.append(Gpu(known.name, known.total_memory, (known.major, known.minor)))
    return found


def version_of(package: str, distribution: str) -> str | None:
    """Return the version of an optional library, None where it is not installed."""
    return metadata.version(distribution) if importlib.util.find_spec(package) else None
