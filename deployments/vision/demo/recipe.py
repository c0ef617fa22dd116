"""One training run's settings: how long, how fast, and how hard the scenes are on the way."""

from dataclasses import dataclass

from deployments.vision.demo.layout import Mix

_WARM_UP = 0.04
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps below `vision_steps` train the vision tower alone, on what each cell shows.

    From step `coarse_from` on, the model learns with the weights that NF4 leaves of its own, and those are shipped.
    `pairs` is the number of frame pairs in a batch, `questions` how many a clip is asked beside its description.
    """

    steps: int
    vision_steps: int
    coarse_from: int
    pairs: int
    questions: int
    peak_rate: float
    seed: int

    def mix(self, step: int) -> Mix:
        """Return what to draw: one large object first, then smaller ones, clocks, more objects, events and cuts."""
        share = min(1.0, 2 * step / max(1, self.vision_steps))
        return Mix(
            objects=(1 - 0.65 * share, 0.35 * share, 0.3 * share),
            small=0.55 * share,
            clock=0.65 * min(1.0, 2 * share),
            events=0.45 * share,
            cut=0.16 * share,
        )

    def rate(self, step: int, first: int) -> float:
        """Return the learning rate: up, then down to nothing along a line, for `first` <= step < steps."""
        share = (step - first) / max(1, self.steps - first)
        if share < _WARM_UP:
            return self.peak_rate * share / _WARM_UP
        return self.peak_rate * (1 - share) / (1 - _WARM_UP)


DEMO = Recipe(steps=6600, vision_steps=3500, coarse_from=4800, pairs=64, questions=3, peak_rate=2e-3, seed=0)
"""What the shipped checkpoint was made by."""
