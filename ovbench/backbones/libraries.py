"""Call open_clip and timm without their log messages, and with their errors as one sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ovbench.utils.errors import InputError, first_line


@contextmanager
def quiet() -> Iterator[None]:
    """Silence log messages of a library, such as that a model has no weights yet."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn errors of a library into an InputError that names the weights, ``BACKBONE=SPEC``."""
    try:
        yield
    except Exception as error:  # hub, network and file errors have no common base class
        raise InputError(
            f"the weights {where} could not be downloaded or loaded ({first_line(error)})",
            fix="run once with a connection, copy the hub's cache folder to this machine, or give --weights NAME=FILE",
        ) from error
