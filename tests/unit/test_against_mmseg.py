"""The same images, labels and converted files as mmsegmentation's own datasets, loaders and converters."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import raw_benchmarks as raw

from ovbench.data.card import load_card
from ovbench.data.dataset import IGNORED, open_dataset
from ovbench.data.prepare import prepare


@pytest.fixture(scope="module")
def mmseg():
    from ovbench.integrations import mmcv_ops as compat

    compat.provide_mmcv_ops()
    import mmseg.datasets

    return mmseg.datasets


CASES = {  # builder, dataset class, root below the data root, prefixes
    "voc21": (raw.voc, "PascalVOCDataset", "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClass"),
    "pc60": (raw.pascal_context, "PascalContextDataset", "VOCdevkit/VOC2010", "JPEGImages", "SegmentationClassContext"),
    "pc59": (
        raw.pascal_context,
        "PascalContextDataset59",
        "VOCdevkit/VOC2010",
        "JPEGImages",
        "SegmentationClassContext",
    ),
    "coco-stuff": (raw.coco, "COCOStuffDataset", ".", "images/val2017", "annotations/val2017"),
    "cityscapes": (raw.cityscapes, "CityscapesDataset", "cityscapes", "leftImg8bit/val", "gtFine/val"),
    "ade150": (raw.ade150, "ADE20KDataset", "ADEChallengeData2016", "images/validation", "annotations/validation"),
}
SPLITS = {
    "voc21": "ImageSets/Segmentation/val.txt",
    "pc60": "ImageSets/SegmentationContext/val.txt",
    "pc59": "ImageSets/SegmentationContext/val.txt",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_order_images_labels_and_classes(mmseg, tmp_path, name):
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations

    build, kind, below, images, labels = CASES[name]
    build(tmp_path)
    card = load_card(name)
    if card.prepare:
        prepare(card, tmp_path)
    ours = open_dataset(card, tmp_path)
    options = {"ann_file": SPLITS[name]} if name in SPLITS else {}
    theirs = getattr(mmseg, kind)(
        data_root=str(tmp_path / below),
        data_prefix={"img_path": images, "seg_map_path": labels},
        pipeline=[LoadImageFromFile(), LoadAnnotations()],
        test_mode=True,
        **options,
    )
    assert len(ours) == len(theirs) > 0
    assert [n.strip() for n in theirs.metainfo["classes"]] == list(card.classes)
    for index, item in enumerate(ours.items):
        loaded = theirs[index]
        assert Path(loaded["img_path"]) == item.image_path
        sample = ours.read(index)
        np.testing.assert_array_equal(sample.image[..., ::-1], loaded["img"])
        expected = loaded["gt_seg_map"].astype(np.uint16)
        np.testing.assert_array_equal(sample.label, np.where(expected == 255, IGNORED, expected))


@pytest.mark.slow
def test_voc20_is_zero_label_reduction(mmseg, tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    raw.voc(tmp_path)
    ours = open_dataset(load_card("voc20"), tmp_path)
    for index, item in enumerate(ours.items):
        result = {"seg_map_path": str(item.label_path), "seg_fields": [], "reduce_zero_label": True}
        expected = LoadAnnotations(reduce_zero_label=True).transform(result)["gt_seg_map"].astype(np.uint16)
        np.testing.assert_array_equal(ours.read_label(index), np.where(expected == 255, IGNORED, expected))


def converter(mmseg, name):
    path = Path(mmseg.__file__).parents[1] / ".mim/tools/dataset_converters" / f"{name}.py"
    if not path.is_file():
        pytest.skip("this installation of mmsegmentation has no converters")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_coco_stuff_equals_the_converter(mmseg, tmp_path):
    raw.coco(tmp_path)
    module = converter(mmseg, "coco_stuff164k")
    (tmp_path / "theirs/val2017").mkdir(parents=True)
    for path in (tmp_path / "stuffthingmaps/val2017").iterdir():
        module.convert_to_trainID(str(path), str(tmp_path / "theirs"), is_train=False)
    prepare(load_card("coco-stuff"), tmp_path)
    theirs = sorted((tmp_path / "theirs/val2017").iterdir())
    ours = sorted((tmp_path / "annotations/val2017").iterdir())
    assert theirs and [p.name for p in ours] == [p.name for p in theirs]
    assert [p.read_bytes() for p in ours] == [p.read_bytes() for p in theirs]
