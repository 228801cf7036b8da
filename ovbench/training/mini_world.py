"""Generated training images of `mini`, from which its reference set and its bank are built on first use."""

from __future__ import annotations

from pathlib import Path

from ovbench.evaluation.distributed import ProcessGroup
from ovbench.utils.cached_folder import cached_folder

IMAGES = 360
SEED = 20_000_000  # far from the images that the backbones were trained on


def mini_world(images: int = IMAGES) -> Path:
    """Return the folder of ``images/train`` and ``captions_train.json``, generated on first use."""
    from ovbench.data.mini.write import write_training

    return cached_folder("generated", f"mini-train-{images}-{SEED}", lambda at: write_training(at, images, SEED))


class SingleProcess(ProcessGroup):
    """A group of one process, also under torchrun: the process that finishes first publishes its set."""

    def __init__(self) -> None:
        self.size, self.rank, self.local_rank = 1, 0, 0
