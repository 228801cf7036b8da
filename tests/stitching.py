"""A method that stitches the windows of an image, as a user would write it."""

import torch

from ovbench.methods.base import Needs, PatchFeatures
from ovbench.methods.maskclip import MaskCLIP


class Stitched(MaskCLIP):
    """Averages the cells of all windows into one grid over the image."""

    needs = Needs(backbones=("clip",), join="image")

    def join(self, features, image):
        patch = self.clip.patch
        grid = tuple(-(-side // patch) for side in image.size)
        total, count = torch.zeros(*grid, features.tokens.shape[-1]), torch.zeros(*grid, 1)
        for cells, box in zip(features.tokens.unflatten(1, features.grid), image.boxes, strict=True):
            rows, columns = (slice(at // patch, at // patch + n) for at, n in zip(box[:2], features.grid, strict=True))
            room = total[rows, columns].shape[:2]
            total[rows, columns] += cells[: room[0], : room[1]]
            count[rows, columns] += 1
        return PatchFeatures((total / count.clamp(min=1)).flatten(0, 1)[None], grid)
