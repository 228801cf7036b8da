"""FAISS, an optional library for approximate search."""

from __future__ import annotations

from typing import Any

from ovbench.utils.errors import UsageError
from ovbench.utils.extras import install_line


def load_faiss() -> Any:
    """Import FAISS.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UsageError("FAISS is not installed", fix=f"{install_line('faiss')}, or choose the exact search") from None
    return faiss
