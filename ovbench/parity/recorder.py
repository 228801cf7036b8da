"""Record the notes of a method, with look-up by window."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ovbench.inference.windowed_image import Fragment


class Recorder:
    """Collect the notes of a run.

    Values of window batches are found by window number, for any batch size. Tiles of a quantity are joined.
    """

    def __init__(self) -> None:
        self.notes: dict[str, list[Any]] = defaultdict(list)
        self.missing: dict[str, int] = {}  # by name: elements of the last quantity that are not noted yet

    def __call__(self, name: str, value: Any) -> None:
        """Record a value, or a tile of a quantity."""
        if isinstance(value, Fragment):
            self._add_fragment(name, value)
        else:
            self.notes[name].append(value.clone() if isinstance(value, Tensor) else value)  # it may change in place

    def _add_fragment(self, name: str, fragment: Fragment) -> None:
        if not self.missing.get(name):
            whole = fragment.values.new_empty(fragment.size)
            self.notes[name].append(whole)
            self.missing[name] = whole.numel()
        self.notes[name][-1][fragment.index] = fragment.values
        self.missing[name] -= fragment.values.numel()

    def once(self, name: str) -> Any:
        """Return the last value of a name.

        Raises:
            ValueError: If tiles of it are missing.
        """
        if self.missing.get(name):
            raise ValueError(f"{self.missing[name]} values of {name} have not been noted")
        return self.notes[name][-1]

    def window(self, name: str, number: int) -> Tensor:
        """Return the row of one window from the batches of a name.

        Raises:
            IndexError: If there is no such window.
        """
        for batch in self.notes[name]:
            rows = batch.tokens if hasattr(batch, "tokens") else batch
            if number < len(rows):
                return torch.as_tensor(rows[number])
            number -= len(rows)
        raise IndexError(f"no window {number} in {name}")
