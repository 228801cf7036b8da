"""What a method noted while it ran, looked up by window."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor


class Recorder:
    """Collects notes; values of window batches are found by window number, whatever the batches were."""

    def __init__(self) -> None:
        self.notes: dict[str, list[Any]] = defaultdict(list)

    def __call__(self, name: str, value: Any) -> None:
        self.notes[name].append(value)

    def once(self, name: str) -> Any:
        """The last value noted under a name."""
        return self.notes[name][-1]

    def window(self, name: str, number: int) -> Tensor:
        """The row of one window in the batches noted under a name."""
        for batch in self.notes[name]:
            rows = batch.tokens if hasattr(batch, "tokens") else batch
            if number < len(rows):
                return torch.as_tensor(rows[number])
            number -= len(rows)
        raise IndexError(f"no window {number} in {name}")
