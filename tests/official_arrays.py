"""Arrays of official code with their settings and tolerances, from one file."""

import json

import numpy as np
import torch


class OfficialArrays:
    """The arrays of a file by name, and in ``origin`` where they come from."""

    def __init__(self, path):
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        self.origin = json.loads(str(arrays.pop("origin")))
        self.arrays = {key: torch.from_numpy(value) for key, value in arrays.items()}

    def __getitem__(self, name):
        return self.arrays[name]
