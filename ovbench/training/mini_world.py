"""Generated training images of `mini`, from which its reference set and its bank are built on first use."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ovbench.evaluation.distributed import ProcessGroup
from ovbench.utils.paths import cache_root

IMAGES = 360
SEED = 20_000_000  # far from the images that the backbones were trained on


def mini_world(images: int = IMAGES) -> Path:
    """Return the folder of ``images/train`` and ``captions_train.json``, generated on first use."""
    from ovbench.data.mini.write import write_training

    folder = cache_root() / "generated" / f"mini-train-{images}-{SEED}"
    if not folder.is_dir():
        with contextlib.suppress(FileExistsError):  # another process was faster
            write_training(folder, images, SEED)
    return folder


class SingleProcess(ProcessGroup):
    """A group of one process, also under torchrun: the process that finishes first publishes its set."""

    def __init__(self) -> None:
        self.size, self.rank, self.local_rank = 1, 0, 0
