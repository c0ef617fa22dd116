"""Choose the next token of one sequence: the best one, or one by chance, from the request's own seed."""

import torch

from deployments.contracts import GenerationOptions


class Chooser:
    """Greedy at temperature 0; above it the whole distribution is sampled, without the checkpoint's top-k and top-p,
    which would change what the temperature means."""

    def __init__(self, options: GenerationOptions) -> None:
        self.greedy = options.temperature == 0
        self._temperature = options.temperature
        # Its own and on the host: what a sequence draws depends on no neighbour and on no device.
        self._chance = torch.Generator().manual_seed(options.seed)

    def choose(self, scores: torch.Tensor) -> int:
        """Draw from softmax(scores / temperature); `scores` is (vocabulary,)."""
        # The Gumbel-max trick (arXiv:1411.0030): rounding in one score moves no other token's share.
        uniform = torch.rand(len(scores), generator=self._chance).clamp_min(torch.finfo(torch.float32).tiny)
        return int((scores.float().cpu() / self._temperature - (-uniform.log()).log()).argmax())
