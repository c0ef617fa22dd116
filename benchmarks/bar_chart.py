"""Draw figures that are to be compared as bars, group by group."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _LEFT, _RIGHT, _TOP, _BAR, _GAP = 900, 300, 90, 50, 18, 26
_OURS, _OTHERS = (36, 74, 214), (170, 176, 190)


def draw_bars(path: Path, title: str, groups: Mapping[str, Mapping[str, float]], *, ours: str) -> None:
    """Write a PNG of one bar for each figure, those named `ours` in ink; each group has a scale of its own."""
    rows = sum(len(bars) for bars in groups.values())
    image = Image.new("RGB", (_WIDTH, _TOP + rows * (_BAR + 4) + len(groups) * (_GAP + 18)), "white")
    pen, font, small = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(13)
    pen.text((12, 14), title, "black", font)
    y = _TOP
    for group, bars in groups.items():
        pen.text((12, y), group, "black", font)
        y += 22
        most = max(bars.values())
        for name, value in bars.items():
            length = (_WIDTH - _LEFT - _RIGHT) * value / most
            pen.text((_LEFT - 8, y + _BAR / 2), name, "black", small, anchor="rm")
            pen.rectangle([_LEFT, y, _LEFT + length, y + _BAR], _OURS if name == ours else _OTHERS)
            pen.text((_LEFT + length + 6, y + _BAR / 2), f"{value:.3g}", "black", small, anchor="lm")
            y += _BAR + 4
        y += _GAP - 4
    image.quantize(32).save(path, optimize=True)
