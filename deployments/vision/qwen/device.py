"""What an engine's device has left, and what its errors mean."""

import re
import traceback
from pathlib import Path

import psutil
import torch

from deployments.errors import DeviceLost, EngineFailed, OutOfMemory
from deployments.vision.engine import MemoryReading

_CPU_TOKENS_AT_ONCE, _CUDA_TOKENS_AT_ONCE = 1024, 8192
"""Prompt tokens that are read in one pass: on a CPU more of them leave its caches and take longer each, on a GPU fewer
would not fill it."""
_CONTEXT_BYTES = 600 * 2**20
"""Of a process's share, for what its allocator does not count: CUDA's context, its libraries and their kernels."""
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|_ALLOC_FAILED|ALLOCATION_FAILED")
"""In what PyTorch's CPU allocator, CUDA (as it loads a kernel for the first time), its libraries and Triton raise."""
_OF_CUDA = re.compile("CUDA|CUDNN|CUBLAS|CUSOLVER|CUSPARSE|NVRTC")
"""In what CUDA's libraries and Triton raise, as plain RuntimeErrors: upper case, unlike a device's name."""
_COMPILERS = ("torch._dynamo", "torch._inductor")
"""Whose own errors may speak of CUDA while its device is well."""
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of this process's container, by version 2 and version 1 of the kernel's control groups."""
_UNBOUND_BYTES = 2**60


def unused_bytes(device: torch.device, gpu_share: float | None) -> int:
    """Return what this process could still take, of its share of a GPU where it has only a part."""
    if device.type != "cuda":
        return _available_bytes()
    unused, total = torch.cuda.mem_get_info(device)
    taken = torch.cuda.memory_allocated(device)
    # What the allocator keeps for later is free to this process.
    unused += torch.cuda.memory_reserved(device) - taken
    return unused if gpu_share is None else min(unused, _allocator_bytes(total, gpu_share) - taken)


def _available_bytes() -> int:
    """Return what this process could take of the machine's memory, or of what its container may have."""
    available = psutil.virtual_memory().available
    for group, most, used, cached in _CGROUPS:
        try:
            limit = (group / most).read_text().strip()
            # No bound, or one beyond any machine, as version 1 says it: what is used is not read with every clip.
            if limit == "max" or int(limit) > _UNBOUND_BYTES:
                continue
            taken = int((group / used).read_text())
            kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except FileNotFoundError:
            continue
        # Files that were read lately count as taken, and go where room is needed.
        available = min(available, max(int(limit) - taken + int(kept[cached]), 0))
    return available


class DeviceMemory:
    """The memory of one device, as this process may use it, counted from what was in use at construction."""

    def __init__(self, device: torch.device, gpu_share: float | None) -> None:
        self._device, self._share = device, gpu_share
        self.tokens_at_once = _CUDA_TOKENS_AT_ONCE if device.type == "cuda" else _CPU_TOKENS_AT_ONCE
        self._loaded_bytes = 0
        self._loaded_bytes = self._in_use()
        self._forget_peak()

    def read(self) -> MemoryReading:
        """Return what is free and the peak since the last reading."""
        in_use, peak = self._in_use(), self._peak()
        self._forget_peak()
        allocated = in_use + self._loaded_bytes
        return MemoryReading(
            free_bytes=in_use + unused_bytes(self._device, self._share),
            peak_bytes=peak,
            allocated_bytes=allocated,
            reserved_bytes=torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else allocated,
        )

    def release(self) -> None:
        """Give back what the allocator keeps for later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _in_use(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) - self._loaded_bytes
        return psutil.Process().memory_info().rss - self._loaded_bytes

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._loaded_bytes
        with open("/proc/self/status") as status:
            [peak_kib] = re.findall(r"VmHWM:\s+(\d+) kB", status.read())
        return int(peak_kib) * 1024 - self._loaded_bytes

    def _forget_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            with open("/proc/self/clear_refs", "w") as refs:
                refs.write("5")  # "reset the peak resident set size", proc(5)


def utilisation(device: torch.device) -> float | None:
    """Return the share of the last moments in which a GPU had work, by NVML; None of a CPU, and without NVML."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:
        # No nvidia-ml-py, or NVML's own errors, which only it knows: a device that does not tell is no broken one.
        return None


def take_share(device: torch.device, gpu_share: float | None) -> None:
    """Hold this process to its part of a GPU, so that several replicas share one: what is more runs out of memory."""
    if device.type == "cuda" and gpu_share is not None:
        _, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(_allocator_bytes(total, gpu_share) / total)


def times_out_of_memory(device: torch.device) -> int:
    """Return how often the allocator of a GPU has had too little for what was asked of it; 0 of a CPU, unknown."""
    return torch.cuda.memory_stats(device).get("num_ooms", 0) if device.type == "cuda" else 0


def _allocator_bytes(total: int, gpu_share: float) -> int:
    return max(int(min(gpu_share, 1.0) * total) - _CONTEXT_BYTES, 0)


def ran_out(error: Exception) -> OutOfMemory:
    """Return what is told of a lack of memory. What the calls that failed had allocated is let go: it would live as
    long as the error."""
    traceback.clear_frames(error.__traceback__)
    return OutOfMemory("the device must have memory for these clips, got too little")


def translate(error: RuntimeError) -> EngineFailed:
    """Return what a RuntimeError of PyTorch's means to who asked.

    After an error of CUDA's other than a lack of memory its context is, as a rule, unusable. What is not implemented
    for CUDA, or not to be compiled for it, is no such error.
    """
    if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return ran_out(error)
    of_software = isinstance(error, NotImplementedError) or type(error).__module__.startswith(_COMPILERS)
    if isinstance(error, torch.AcceleratorError) or (_OF_CUDA.search(str(error)) and not of_software):
        return DeviceLost(f"the device must work, got {type(error).__name__}")
    return EngineFailed(f"generation failed: {type(error).__name__}")
