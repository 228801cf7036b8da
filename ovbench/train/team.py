"""Waiting for the features that other processes of a training compute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

POLL_INTERVAL_S = 0.5


def wait_for(files: Sequence[Path]) -> None:
    """Return as soon as all files exist.

    Other processes may need longer than the timeout of a collective call. If one of them fails, torchrun ends this one.
    """
    for file in files:
        while not file.is_file():
            time.sleep(POLL_INTERVAL_S)
