"""Does a clip's caption depend on what it is described with? Alone, among others, with coarser weights.

The demo checkpoint on never-trained combinations, through the engine itself. `make eval-demo`.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.results_file import Bar, write_result
from deployments.contracts import DescribeRequest
from deployments.settings import VisionSettings
from deployments.vision.catalog import DEMO_DIR
from deployments.vision.demo.clips import sample_clip, sample_shape
from deployments.vision.demo.layout import Mix
from deployments.vision.prompts import DEFAULT_PROMPT
from deployments.vision.qwen.engine import TransformersEngine

BATCH_CLIPS = 8
_SEED = 30_000_001


def requests(count: int) -> list[DescribeRequest]:
    """Return clips of all lengths and shapes in no order, so that every batch of them needs padding."""
    rng = np.random.default_rng(_SEED)
    mix = Mix(cut=0.05)
    return [
        sample_clip(rng, *sample_shape(rng), mix=mix, combinations="held_out").request(DEFAULT_PROMPT)
        for _ in range(count)
    ]


def texts(asked: list[DescribeRequest], batch_clips: int, checkpoint: Path, quantization: str = "none") -> list[str]:
    """Return the captions by an engine that is given `batch_clips` at a time."""
    engine = TransformersEngine(
        VisionSettings.model_validate(
            {"checkpoint": str(checkpoint), "dtype": "fp32", "device": "cpu", "quantization": quantization}
        )
    )
    engine.load()
    batches = [asked[at : at + batch_clips] for at in range(0, len(asked), batch_clips)]
    return [caption.text for batch in batches for caption in engine.describe(batch)]


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/demo_invariance.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO_DIR)
    parser.add_argument("--clips", type=int, default=304)
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    asked = requests(args.clips)
    alone = texts(asked, 1, args.checkpoint)
    others = {
        f"in batches of {BATCH_CLIPS}": texts(asked, BATCH_CLIPS, args.checkpoint),
        "NF4": texts(asked, BATCH_CLIPS, args.checkpoint, "nf4"),
        "int8": texts(asked, BATCH_CLIPS, args.checkpoint, "int8"),
    }
    same = {name: sum(a == b for a, b in zip(alone, told, strict=True)) / len(alone) for name, told in others.items()}
    if args.dry_run:
        print(same)
        for name, told in others.items():
            for a, b in [pair for pair in zip(alone, told, strict=True) if pair[0] != pair[1]][:4]:
                print(f"{name}\n  {a}\n  {b}")
        return
    bars = {
        f"captions of the demo model {name} that are those of the clip alone": Bar(
            share, 1.0 if "batches" in name else 0.99, "share"
        )
        for name, share in same.items()
    }
    write_result(
        "demo_invariance",
        {"same caption as alone in fp32": {name: round(share, 4) for name, share in same.items()}},
        bars,
        model="demo checkpoint",
        shape=f"{args.clips} clips of 1 to 16 frames in 4 shapes, never-trained combinations",
    )


if __name__ == "__main__":
    main()
