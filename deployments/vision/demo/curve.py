"""Draw a run's learning curve: `python -m deployments.vision.demo.curve CSV PNG`."""

import argparse
import csv
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 520, 70, 130, 40, 50
_LOW, _HIGH = 1e-3, 4.0
_INK = {
    "answer": (20, 20, 20),
    "colour": (214, 32, 38),
    "shape": (36, 74, 214),
    "motion": (40, 158, 62),
    "size": (245, 132, 20),
    "rank": (122, 42, 160),
    "seconds": (0, 150, 170),
}
"""The losses that are shown; the others lie close to one of these."""


def read_curve(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each loss's (step, mean cross-entropy), as `train` appends them; a later row of a step wins."""
    losses: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for step, name, value, _ in csv.reader(file):
            losses.setdefault(name, {})[int(step)] = float(value)
    return {name: sorted(points.items()) for name, points in losses.items()}


def draw_curve(losses: dict[str, list[tuple[int, float]]]) -> Image.Image:
    """Return the picture: cross-entropy on a logarithmic axis over the steps."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    steps = [step for points in losses.values() for step, _ in points]
    first, last = min(steps), max(steps)

    def place(step: int, value: float) -> tuple[float, float]:
        across = (step - first) / max(1, last - first)
        up = math.log(min(max(value, _LOW), _HIGH) / _LOW) / math.log(_HIGH / _LOW)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    pen.text((_LEFT, 10), "cross-entropy over the training steps (mean of 25)", "black", font)
    for value in (0.001, 0.01, 0.1, 1.0):
        _, y = place(first, value)
        pen.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], (225, 225, 225))
        pen.text((_LEFT - 8, y), f"{value:g}", "black", font, anchor="rm")
    for step in range(-(-first // 500) * 500, last + 1, 500):
        x, _ = place(step, _LOW)
        pen.line([(x, _TOP), (x, _HEIGHT - _BOTTOM)], (225, 225, 225))
        pen.text((x, _HEIGHT - _BOTTOM + 8), f"{step:,}", "black", font, anchor="ma")
    for row, (name, ink) in enumerate(_INK.items()):
        points = [place(step, value) for step, value in losses.get(name, [])]
        if len(points) > 1:
            pen.line(points, ink, 2)
        pen.text((_WIDTH - _RIGHT + 12, _TOP + 22 * row), name, ink, font)
    return image


def write_picture(curve: Path, picture: Path) -> None:
    """Draw the CSV as a PNG of few colours."""
    draw_curve(read_curve(curve)).quantize(32).save(picture, optimize=True)


def main() -> None:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path, help="the curve that training wrote")
    parser.add_argument("png", type=Path, help="the picture to write")
    args = parser.parse_args()
    write_picture(args.csv, args.png)


if __name__ == "__main__":
    main()
