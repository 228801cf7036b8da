"""The hash of a list of images; apart from the cards, which a command that reads records only need not load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def ids_sha256(ids: Iterable[str]) -> str:
    """Return the hash of image ids, one per line.

    Args:
        ids: The ids in order.

    Returns:
        sha256, hexadecimal.
    """
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
