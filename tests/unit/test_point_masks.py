"""Masks for a grid of points: those of the automatic mask generator of segment-anything, with few waits of the host."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import region_models
import torch
import torch.nn.functional as F
from pretended_device import DEVICE, pretended
from segment_anything import SamAutomaticMaskGenerator

from ovbench.regions import point_masks
from ovbench.regions.point_masks import enlarged, region_map
from ovbench.regions.sam_predictor import SamPredictor

# Waits of the host for one image, however many points and masks; a number may only fall. Each group of points waits for
# two filters, the image for the choice among overlapping masks and for its map.
WAITS = {"sam": 4, "sam2": 4}


def picture(h: int, w: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (h // 8 + 1, w // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)[:h, :w]


def scatter(decoder: torch.nn.Module) -> None:
    """Give each mask a place, size and predicted IoU that follow from its prompt: random weights find the same mask."""
    drawn = {}

    def moved(module, args, given, out):
        masks, _, *rest = out
        prompts, (count, h, w) = given["sparse_prompt_embeddings"][..., 0, :], masks.shape[-3:]
        if masks.device not in drawn:
            draw = torch.randn(prompts.shape[-1], count * 4, generator=torch.Generator().manual_seed(0)) / 2
            drawn[masks.device] = [part.to(masks.device) for part in (draw, torch.arange(h)[:, None], torch.arange(w))]
        draw, rows, columns = drawn[masks.device]
        x, y, radius, iou = (prompts.float() @ draw).sigmoid().unflatten(-1, (count, 4)).unbind(-1)
        x, y, radius = ((2 * of - 0.5)[..., None, None] for of in (x, y, radius))
        far = ((columns - x * w) ** 2 + (rows - y * h) ** 2).sqrt()
        return ((8 * (radius * h / 4 - far) + masks.float()).to(masks.dtype), iou, *rest)

    decoder.register_forward_hook(moved, with_kwargs=True)


def scattered_sam(device: str = "cpu") -> SamPredictor:
    sam = region_models.small_sam().eval().requires_grad_(False).to(device)
    scatter(sam.mask_decoder)
    return SamPredictor(sam)


def scattered_sam2(folder, device: str = "cpu", *, multimask: bool):
    pytest.importorskip("transformers")
    from ovbench.regions.sam2_predictor import Sam2Predictor

    model = Sam2Predictor(str(region_models.save_sam2(folder / "sam2")), device, multimask=multimask, half=False)
    scatter(model.network.mask_decoder)
    return model


class AsPredictor:
    """A SAM 2 as the generator expects its predictor."""

    def __init__(self, model):
        self.own, self.device, self.transform = model, model.device, self
        self.model, self.apply_coords = SimpleNamespace(mask_threshold=model.threshold), model.scaled
        self.reset_image = lambda: None

    def set_image(self, image):
        self.size, self.embedded = image.shape[:2], self.own.embed(image)

    def predict_torch(self, points, labels, multimask_output, return_logits):
        low, iou = self.own.decode(self.embedded, points[:, 0].float())
        return F.interpolate(low.float(), self.size, mode="bilinear", align_corners=False), iou, low


def generated(model, image: np.ndarray, points: int, iou: float, stability: float) -> list[np.ndarray]:
    """The masks of the generator itself."""
    stand_in = SimpleNamespace(image_encoder=SimpleNamespace(img_size=model.side), device=model.device)
    generator = SamAutomaticMaskGenerator(
        getattr(model, "sam", stand_in), points_per_side=points, pred_iou_thresh=iou, stability_score_thresh=stability
    )
    if not hasattr(model, "sam"):
        generator.predictor = AsPredictor(model)
    return [found["segmentation"] for found in generator.generate(image)]


def own(model, image: np.ndarray, points: int, iou: float, stability: float) -> list[np.ndarray]:
    found = point_masks.point_masks(model, image, points=points, iou=iou, stability=stability)
    masks = [mask.numpy() > model.threshold for part in enlarged(model, found.low, image.shape[:2]) for mask in part]
    assert found.areas.tolist() == [mask.sum() for mask in masks]
    return masks


def painted(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Write 1, 2, 3, ... in ascending area, stable, so that later masks overwrite earlier ones."""
    canvas = np.zeros(size, np.int32)
    for number, mask in enumerate(sorted(masks, key=lambda mask: mask.sum()), 1):
        canvas[mask] = number
    return canvas


def check(model, image, points, iou, stability) -> list[np.ndarray]:
    """Compare masks, their order and the map; return the masks."""
    expected = generated(model, image, points, iou, stability)
    found = own(model, image, points, iou, stability)
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    regions = region_map(model, image, points=points, iou=iou, stability=stability)
    assert regions.dtype == np.int32 and np.array_equal(regions, painted(expected, image.shape[:2]))
    return found


SIZES = [(64, 64), (40, 90), (130, 50), (33, 21), (200, 310)]  # the models take 64
FILTERS = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.6), (0.4, 0.7)]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "filters"), [*product(SIZES[:2], FILTERS), *product(SIZES[2:], FILTERS[3:])])
def test_sam_masks_are_those_of_the_generator(size, filters, monkeypatch):
    monkeypatch.setattr(point_masks, "PIXELS", 3 * 64 * 64)
    monkeypatch.setattr(point_masks, "FILTERED_TOGETHER", 2 * point_masks.BATCH)
    model = scattered_sam()
    masks = check(model, picture(*size), 13, *filters)
    assert len(masks) > 5
    assert any(mask[0].any() or mask[:, 0].any() for mask in masks)  # at the border
    assert any(mask[-1].any() or mask[:, -1].any() for mask in masks)


@pytest.mark.slow
def test_more_than_a_thousand_candidates():
    """The generator removes overlaps in another way then."""
    assert len(check(scattered_sam(), picture(70, 90), 20, 0.0, 0.0)) > 20


def test_empty_masks_are_kept_without_a_filter():
    assert not all(mask.any() for mask in check(scattered_sam(), picture(64, 64), 6, 0.0, 0.0))


def test_untouched_weights_and_no_mask():
    model = SamPredictor(region_models.small_sam().eval())
    assert len(check(model, picture(70, 90), 5, -9.0, 0.0)) == 1
    for iou, stability in ((99.0, 0.0), (-9.0, 1.1), (99.0, 0.7)):
        assert check(model, picture(70, 90), 4, iou, stability) == []


@pytest.mark.slow
@pytest.mark.parametrize("multimask", [False, True])
def test_sam2_masks_are_those_of_the_generator(multimask, tmp_path, monkeypatch):
    model = scattered_sam2(tmp_path, multimask=multimask)
    monkeypatch.setattr(point_masks, "PIXELS", 3 * 64 * 64)
    for size in SIZES:
        assert len(check(model, picture(*size), 9, 0.3, 0.0)) > 5
        check(model, picture(*size), 9, 0.0, 0.6)
    assert check(model, picture(64, 64), 4, 1.0, 0.0) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", WAITS)
def test_waits_on_a_pretended_device(name, tmp_path):
    image = picture(70, 90)

    def made(device):
        return scattered_sam(device) if name == "sam" else scattered_sam2(tmp_path, device, multimask=True)

    settings = {"points": 9, "iou": 0.4, "stability": 0.5}
    expected = region_map(made("cpu"), image, **settings)
    with pretended() as device:
        model = made(str(DEVICE))
        region_map(model, image, **settings)  # uploads constants
        device.waits.clear()
        regions = region_map(model, image, **settings)
    assert len(np.unique(expected)) > 5 and np.array_equal(regions, expected)
    assert device.waits.total() <= WAITS[name], device.waits
