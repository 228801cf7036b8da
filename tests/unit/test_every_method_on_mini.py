"""What every method must do: label an image without ever seeing a label, and without regard to the images before it."""

import shutil

import numpy as np
import pytest

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.inference.pipeline import build_pipeline
from ovbench.utils.registry import METHODS


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_labels_are_never_read_and_images_do_not_matter_to_each_other(method, own_mini, monkeypatch):
    monkeypatch.setattr("ovbench.training.reference_set.mini_set.IMAGES", 8)  # of the set of reme
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # which is built without further processes
    dataset = open_dataset(load_card("mini"))
    image, other = dataset.read_image(0)[:150, :170], dataset.read_image(1)[:90, :110]
    expected = build_pipeline(resolve(method, "mini")).label(image)
    assert expected.shape == image.shape[:2] and expected.max() < len(dataset.card.classes)

    # the same where no ground truth exists, and after another image
    shutil.rmtree(own_mini / "labels")
    pipeline = build_pipeline(resolve(method, "mini"))
    pipeline.label(other)
    np.testing.assert_array_equal(pipeline.label(image), expected)
