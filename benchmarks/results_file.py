"""Write what a benchmark measured, with its conditions and its bars, to `benchmarks/results/<name>.json`."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"

DISTRIBUTIONS = ("numpy", "av", "decord", "ray", "torch", "transformers", "bitsandbytes", "vllm", "litellm", "fastapi")
"""The packages whose versions can move a figure; those not installed are left out."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and the bound it is held to; `better` says on which side of `bar` the good values lie."""

    value: float
    bar: float
    unit: str
    better: Literal["higher", "lower"] = "higher"

    @property
    def holds(self) -> bool:
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar


def write_result(
    name: str,
    figures: Mapping[str, Any],
    bars: Mapping[str, Bar],
    *,
    model: str,
    shape: str,
    results: Path = RESULTS,
) -> Path:
    """Write `<results>/<name>.json`, print its table, and return its path.

    `figures` are JSON-able, best nested at most once (`{"row": {"column": number}}`), which the table shows. `model`
    and `shape` say in words what was run on what ("none" where there is no model).
    """
    content = {
        "conditions": conditions(model=model, shape=shape),
        "figures": dict(figures),
        "bars": {
            key: {"value": bar.value, "bar": bar.bar, "unit": bar.unit, "better": bar.better, "holds": bar.holds}
            for key, bar in bars.items()
        },
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(table(figures, bars))
    return path


def conditions(*, model: str, shape: str) -> dict[str, Any]:
    """Return what someone must know to measure again: commit, date, machine, model, shape, command, versions."""
    return {
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": _machine(),
        "model": model,
        "shape": shape,
        "command": _command(sys.orig_argv),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def table(figures: Mapping[str, Any], bars: Mapping[str, Bar]) -> str:
    """Return the figures and bars as aligned lines of text."""
    rows = []
    for key, value in figures.items():
        cells = value.items() if isinstance(value, Mapping) else [("", value)]
        rows += [(key, column, _number(cell)) for column, cell in cells]
    lines = _aligned(rows)
    for key, bar in bars.items():
        sign = ">=" if bar.better == "higher" else "<="
        verdict = "holds" if bar.holds else "FAILS"
        lines.append(f"{verdict}  {key}: {_number(bar.value)} {bar.unit} ({sign} {_number(bar.bar)})")
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _commit() -> str:
    """Return the short hash of HEAD, with `+` when tracked files differ from it, "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        clean = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode == 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head if clean else f"{head}+"


def _machine() -> str:
    """Return CPU model, usable cores and GPU; never a host name."""
    cpu = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    return ", ".join(filter(None, (f"{cpu}, {len(os.sched_getaffinity(0))} cores", _gpu())))


def _gpu() -> str:
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "; ".join(line.strip() for line in found.stdout.splitlines())


def _command(argv: Sequence[str]) -> str:
    """Return the command line with machine paths cut down to their last part."""
    return shlex.join(["python", *(Path(word).name if word.startswith("/") else word for word in argv[1:])])


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
