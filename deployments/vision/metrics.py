"""A vision replica's metrics, by Ray: they reach Prometheus at each node's metrics port, labelled with the replica.

How busy a GPU is Ray itself tells there for each node, too: `ray_node_gpus_utilization`.
"""

from ray.serve import metrics

from deployments.contracts import Caption
from deployments.vision.engine import MemoryReading
from deployments.vision.observer import Observer

_FEW_TO_MANY = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]
_LABELS = ("model",)


class ReplicaMetrics(Observer):
    """Made inside the replica, from where Serve adds the names of deployment and replica to each series."""

    def __init__(self, model: str) -> None:
        self._label = {"model": model}
        self._queued = metrics.Gauge("vidray_vision_queued_clips", "Clips that wait for the engine", _LABELS)
        self._batch_clips = metrics.Histogram(
            "vidray_vision_batch_clips", "Clips that shared the device with one when it began", _FEW_TO_MANY, _LABELS
        )
        self._batch_frames = metrics.Histogram(
            "vidray_vision_batch_frames", "Frames of the clips that began together", _FEW_TO_MANY, _LABELS
        )
        self._batch_tokens = metrics.Histogram(
            "vidray_vision_cache_tokens",
            "Tokens that the cache holds, at each beginning",
            [64.0 * 4**power for power in range(9)],
            _LABELS,
        )
        self._frame_s = metrics.Histogram(
            "vidray_vision_seconds_per_frame", "A clip's engine seconds for each of its frames", _SECONDS, _LABELS
        )
        self._prompt_tokens = metrics.Counter(
            "vidray_vision_prompt_tokens", "Tokens of the questions, frames included", _LABELS
        )
        self._output_tokens = metrics.Counter("vidray_vision_output_tokens", "Tokens written", _LABELS)
        self._frames = metrics.Counter("vidray_vision_frames", "Frames described", _LABELS)
        self._engine_s = metrics.Counter("vidray_vision_engine_seconds", "Time of the engine's device", _LABELS)
        self._memory = metrics.Gauge(
            "vidray_vision_memory_bytes",
            "Of the replica's device: `allocated` and `reserved` in all, `peak` and `free` beside the weights",
            (*_LABELS, "kind"),  # type: ignore[arg-type]  # Ray's annotation knows one label only
        )
        self._splits = metrics.Counter("vidray_vision_memory_splits", "Batches that were too large", _LABELS)
        self._failures = metrics.Counter("vidray_vision_failures", "Engine calls that failed", _LABELS)
        self._loads = metrics.Counter("vidray_vision_loads", "Times that the weights were loaded", _LABELS)
        self._load_s = metrics.Counter("vidray_vision_load_seconds", "Time that loading took", _LABELS)
        self._unloads = metrics.Counter("vidray_vision_unloads", "Times that the device was given back", _LABELS)
        self._ready = metrics.Gauge("vidray_vision_ready", "1 while the weights are on the device", _LABELS)
        self._ready.set(0, self._label)
        self._healthy = metrics.Gauge(
            "vidray_vision_healthy", "0 where the last check found that the model cannot be used", _LABELS
        )
        self._healthy.set(1, self._label)
        self._utilisation = metrics.Gauge(
            "vidray_vision_gpu_utilisation", "Share of the last moments in which the GPU had work, by NVML", _LABELS
        )

    def loaded(self, load_s: float, memory: MemoryReading | None) -> None:
        self._add(self._loads, 1)
        self._add(self._load_s, load_s)
        self._ready.set(1, self._label)
        self._holds(memory)

    def unloaded(self) -> None:
        self._add(self._unloads, 1)
        self._ready.set(0, self._label)
        self._healthy.set(1, self._label)
        self._utilisation.set(0, self._label)
        self._holds(MemoryReading(free_bytes=0, peak_bytes=0))

    def checked(self, utilisation: float | None) -> None:
        self._healthy.set(1, self._label)
        if utilisation is not None:
            self._utilisation.set(utilisation, self._label)

    def unhealthy(self) -> None:
        self._healthy.set(0, self._label)

    def waiting(self, clips: int) -> None:
        self._queued.set(clips, self._label)

    def began(self, *, clips: int, frames: int, cache_tokens: int, memory: MemoryReading | None) -> None:
        self._batch_frames.observe(frames, self._label)
        self._batch_tokens.observe(cache_tokens, self._label)
        self._holds(memory)

    def _holds(self, memory: MemoryReading | None) -> None:
        if memory is not None:
            for kind, value in (
                ("allocated", memory.allocated_bytes),
                ("reserved", memory.reserved_bytes),
                ("peak", memory.peak_bytes),
                ("free", memory.free_bytes),
            ):
                self._memory.set(value, self._label | {"kind": kind})

    def ended(self, caption: Caption, *, frames: int) -> None:
        self._batch_clips.observe(caption.batch_clips, self._label)
        self._add(self._prompt_tokens, sum(answer.prompt_tokens for answer in caption.answers))
        self._add(self._output_tokens, sum(answer.output_tokens for answer in caption.answers))
        self._add(self._engine_s, caption.engine_s)
        self._add(self._frames, frames)
        if frames:
            self._frame_s.observe(caption.engine_s / frames, self._label)

    def ran_out_of_memory(self) -> None:
        self._add(self._splits, 1)

    def failed(self) -> None:
        self._add(self._failures, 1)

    def _add(self, counter: metrics.Counter, value: float) -> None:
        if value > 0:  # Ray takes a zero for a mistake
            counter.inc(value, self._label)
