"""The keys and values of the sequences under way: a row each, of its own length, on the device."""

from collections.abc import Sequence
from typing import Any

import torch

_MOST_SPARE = 4
"""How many times larger than needed an empty cache may be before its memory is given back."""


class CacheRows:
    """For each layer keys and values (rows, key heads, columns, head size); a row's columns are used from the left.

    The first `rows` rows are in use: who leaves is to be replaced by the last one. Room is made before a sequence
    begins and for all that it may come to write, so that no step can run out of memory for it.
    """

    def __init__(self, layers: int, heads: int, head_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self._heads, self._head_size = heads, head_size
        self._made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.keys, self.values = ([self._empty(0, 0) for _ in range(layers)] for _ in range(2))
        self.rows = 0

    def make_room(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns in all. An empty cache is made anew where it is no good fit.

        What was made before memory ran out stays, so that layers may differ in their size.
        """
        if self.rows == 0:
            cells = [part.shape[0] * part.shape[2] for part in (*self.keys, *self.values)]
            fits = all(_holds(part, rows, columns) for part in (*self.keys, *self.values))
            if not fits or max(cells) > _MOST_SPARE * rows * columns:
                self.clear()
        for parts in (self.keys, self.values):
            for at, part in enumerate(parts):
                if not _holds(part, rows, columns):
                    # Not as many rows as there once were times the longest one that there was: nobody counts those.
                    made, kept = self._empty(rows, columns), min(columns, part.shape[2])
                    made[: self.rows, :, :kept] = part[: self.rows, :, :kept]
                    parts[at] = made

    def add(self, cache: Any, lengths: Sequence[int]) -> None:
        """Take over the sequences of a `DynamicCache`: row n holds `lengths[n]` columns, padded on the right."""
        first, self.rows = self.rows, self.rows + len(lengths)
        columns = max(lengths)
        for layer, keys, values in zip(cache.layers, self.keys, self.values, strict=True):
            keys[first : self.rows, :, :columns] = layer.keys
            values[first : self.rows, :, :columns] = layer.values

    def fork(self, sources: Sequence[int], columns: int) -> int:
        """Begin new rows with the first columns of these; return the first new one's place."""
        first, self.rows = self.rows, self.rows + len(sources)
        for part in (*self.keys, *self.values):
            part[first : self.rows, :, :columns] = part[sources, :, :columns]
        return first

    def move(self, source: int, target: int) -> None:
        """Copy a row over another one."""
        for part in (*self.keys, *self.values):
            part[target] = part[source]

    def clear(self) -> None:
        """Give the memory back."""
        self.rows = 0
        for parts in (self.keys, self.values):
            parts[:] = [self._empty(0, 0) for _ in parts]

    def _empty(self, rows: int, columns: int) -> torch.Tensor:
        # Zeros: what masked columns hold is multiplied by zero, which a NaN would survive.
        return torch.zeros(rows, self._heads, columns, self._head_size, **self._made)


def _holds(part: torch.Tensor, rows: int, columns: int) -> bool:
    return part.shape[0] >= rows and part.shape[2] >= columns
