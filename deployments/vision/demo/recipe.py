"""One training run's settings: how long, how fast, and how hard the scenes are on the way."""

from dataclasses import dataclass

from deployments.vision.demo.layout import Mix

_WHOLE_STEP_COST = 2.0
"""Of a step of the whole model, in steps of the tower: 1.9 with bfloat16 products, 2.2 with float32 ones."""
_WARM_UP = 0.04
"""Share of a cycle's steps over which the learning rate rises."""
_AGAIN_RATE = 0.5
"""Peak of the second cycle's learning rate, as a share of the first one's."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps below `vision_steps` train the vision tower alone, on what each cell shows.

    From step `coarse_from` on, the model learns with the weights that NF4 leaves of its own, and those are shipped.
    At step `again_from` the learning rate, which has fallen to nothing, rises once more, half as high, and falls again.
    `pairs` is the number of frame pairs in a batch, `questions` how many a clip is asked beside its description.
    """

    steps: int
    vision_steps: int
    coarse_from: int
    again_from: int
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

    def left_s(self, step: int, step_s: float) -> float:
        """Return how long the steps from `step` on take, where one now takes `step_s` seconds."""
        tower = max(0, min(self.vision_steps, self.steps) - step)
        if not tower:
            return (self.steps - step) * step_s
        return (tower + max(0, self.steps - self.vision_steps) * _WHOLE_STEP_COST) * step_s

    def rate(self, step: int, first: int) -> float:
        """Return the learning rate for `first` <= step < steps: in each cycle up, then down to nothing along a line.

        Two cycles: Loshchilov and Hutter's warm restarts (2017), with lines for cosines.
        """
        begin, end, peak = first, min(self.again_from, self.steps), self.peak_rate
        if step >= self.again_from:
            begin, end, peak = max(first, self.again_from), self.steps, _AGAIN_RATE * peak
        # Each step has the rate of its middle, so that neither the first one nor the last one learns nothing.
        share = (step + 0.5 - begin) / (end - begin)
        return peak * (share / _WARM_UP if share < _WARM_UP else (1 - share) / (1 - _WARM_UP))


DEMO = Recipe(
    steps=9400, vision_steps=3500, coarse_from=4800, again_from=6600, pairs=64, questions=3, peak_rate=2e-3, seed=0
)
"""What `make demo-model` runs; how the shipped weights were made is in the model card."""
