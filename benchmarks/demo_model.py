"""What the demo checkpoint knows, measured on drawn scenes it has not seen. `make eval-demo`."""

import argparse
from pathlib import Path

from benchmarks.results_file import Bar, write_result
from deployments.vision.demo.evaluate import CHECKPOINT, evaluate, load


def main() -> None:
    """Parse the command line, measure and write `benchmarks/results/demo_model.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--clips", type=int, default=512, help="scenes in each held-out set")
    parser.add_argument("--dry-run", action="store_true", help="print the figures and write no file")
    args = parser.parse_args()
    model, tokenizer = load(args.checkpoint)
    scores = evaluate(model, tokenizer, args.clips)
    if args.dry_run:
        return
    held_out = scores["held-out combinations"]
    bars = {
        "held-out colour": Bar(held_out["colour"], 0.98, "share"),
        "held-out background": Bar(held_out["background"], 0.98, "share"),
        "held-out shape": Bar(held_out["shape"], 0.97, "share"),
        "held-out motion": Bar(held_out["motion"], 0.97, "share"),
    }
    parameters = sum(weight.numel() for weight in model.parameters())
    write_result(
        "demo_model",
        {name: {key: round(value, 4) for key, value in values.items()} for name, values in scores.items()},
        bars,
        model=f"demo checkpoint, {parameters / 1e6:.2f} M parameters, fp32",
        shape=f"{args.clips} drawn scenes of one object per set, 1 to 16 frames at 84 to 140 pixels a side",
    )


if __name__ == "__main__":
    main()
