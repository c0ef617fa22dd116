"""What an engine's device has left, and what its errors mean."""

import re

import psutil
import torch

from deployments.errors import DeviceLost, EngineFailed, OutOfMemory
from deployments.vision.engine import MemoryReading

_CPU_TOKENS_AT_ONCE, _CUDA_TOKENS_AT_ONCE = 1024, 8192
"""Prompt tokens that are read in one pass: on a CPU more of them leave its caches and take longer each, on a GPU fewer
would not fill it."""
_NO_HOST_MEMORY = "can't allocate memory"
"""In what PyTorch's CPU allocator raises, as a plain RuntimeError."""


class DeviceMemory:
    """The memory of one device, as this process may use it, counted from what was in use at construction."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.tokens_at_once = _CUDA_TOKENS_AT_ONCE if device.type == "cuda" else _CPU_TOKENS_AT_ONCE
        self._loaded_bytes = 0
        self._loaded_bytes = self._in_use()
        self._forget_peak()

    def read(self) -> MemoryReading:
        """Return what is free and the peak since the last reading."""
        in_use, peak = self._in_use(), self._peak()
        self._forget_peak()
        return MemoryReading(free_bytes=in_use + self._unused(), peak_bytes=peak)

    def release(self) -> None:
        """Give back what the allocator keeps for later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _in_use(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) - self._loaded_bytes
        return psutil.Process().memory_info().rss - self._loaded_bytes

    def _unused(self) -> int:
        if self._device.type == "cuda":
            unused, _ = torch.cuda.mem_get_info(self._device)
            kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            share = torch.cuda.get_per_process_memory_fraction(self._device)
            total = torch.cuda.get_device_properties(self._device).total_memory
            return min(unused + kept, int(share * total) - torch.cuda.memory_allocated(self._device))
        return psutil.virtual_memory().available

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


def translate(error: RuntimeError) -> EngineFailed:
    """Return what a RuntimeError of PyTorch's means to who asked."""
    if isinstance(error, torch.OutOfMemoryError) or _NO_HOST_MEMORY in str(error):
        return OutOfMemory("the device must have memory for these clips, got too little")
    if isinstance(error, torch.AcceleratorError):
        return DeviceLost(f"the device must work, got {type(error).__name__}")
    return EngineFailed(f"generation failed: {type(error).__name__}")
