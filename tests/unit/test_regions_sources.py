"""Region sources: each with a small model in its official format, or with the real algorithm."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import region_models
import torch

from ovbench.config.load import regions_table
from ovbench.regions.point_masks import region_map
from ovbench.regions.provider import Regions, open_regions, open_source
from ovbench.regions.sam import SamRegions, load_sam
from ovbench.regions.sam_predictor import SamPredictor
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import REGIONS

DATA = Path(__file__).parents[1] / "data"


def picture(h: int = 70, w: int = 90) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (h // 10, w // 10, 3))
    return np.kron(coarse, np.ones((10, 10, 1))).astype(np.uint8)


@pytest.mark.parametrize("name", REGIONS.names())
def test_settings_are_plain_data_and_rebuild_the_source(name):
    table = regions_table(name, {})
    assert json.loads(json.dumps(table)) == table
    again, source = open_source(table)
    assert again == name and {"source": name, **source.settings()} == table
    fields = {field.name for field in dataclasses.fields(source)}
    assert set(source.elsewhere) <= fields


@pytest.mark.parametrize("name", ["felzenszwalb", "slic"])
def test_sources_without_weights(name):
    source = REGIONS.load(name)()
    regions = source(picture())
    assert regions.shape == (70, 90) and regions.dtype == np.int32
    assert regions.min() == 1 and regions.max() > 3
    assert np.array_equal(regions, source(picture())) and source.missing() == [] and source.weights_sha256() == ""


def test_slic_settings_count():
    slic = REGIONS.load("slic")
    assert slic(segments=200)(picture()).max() > slic(segments=20)(picture()).max()


# --- Segment Anything -------------------------------------------------------------------------------------------------


@pytest.fixture
def sam_file(monkeypatch, tmp_path):
    """A small SAM in place of "vit_b", and a checkpoint of it."""
    import segment_anything

    made = region_models.small_sam()
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(made.state_dict(), path)
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", lambda checkpoint: region_models.small_sam())
    return path


def test_sam_settings_reach_the_masks(sam_file):
    settings = {"points": 4, "iou": -9.0, "stability": 0.0}
    regions = SamRegions(model="vit_b", weights=str(sam_file), **settings)(picture())
    expected = region_map(SamPredictor(load_sam("vit_b", sam_file)), picture(), **settings)
    assert regions.max() >= 1 and np.array_equal(regions, expected)


def test_sam_without_any_mask_leaves_everything_unsegmented(sam_file):
    regions = SamRegions(model="vit_b", weights=str(sam_file), points=4, iou=99.0)(picture())
    assert regions.shape == (70, 90) and not regions.any()


def test_sam_from_the_weights_folder(sam_file, monkeypatch):
    monkeypatch.setenv("OVBENCH_WEIGHTS", str(sam_file.parent))
    named, found = SamRegions(model="vit_b", weights=str(sam_file)), SamRegions(model="vit_b")
    assert found.missing() == [] and found.weights_sha256() == named.weights_sha256() != ""
    assert SamRegions(model="vit_h").missing() == [f"sam_vit_h_4b8939.pth (looked in {sam_file.parent})"]


def test_sam_presets():
    assert REGIONS.load("sam")().points == 32 and REGIONS.load("sam-8")().points == 8
    assert REGIONS.load("sam2")().points == 8 and REGIONS.load("sam2-32")().points == 32


def test_unknown_sam_model():
    with pytest.raises(UsageError, match='did you mean "vit_b"'):
        SamRegions(model="vit_bb")


# --- models of the transformers library -------------------------------------------------------------------------------

NEEDED = "transformers"


@pytest.mark.slow
def test_sam2(tmp_path):
    pytest.importorskip(NEEDED)
    folder = region_models.save_sam2(tmp_path / "sam2")
    source = REGIONS.load("sam2")(weights=str(folder), points=4, iou=-9.0, stability=0.0)
    assert source.missing() == []
    regions = source(picture())
    assert regions.shape == (70, 90) and regions.dtype == np.int32 and regions.max() >= 1
    assert not REGIONS.load("sam2")(weights=str(folder), points=4, iou=99.0)(picture()).any()


@pytest.mark.slow
def test_sam2_predictor_agrees_with_the_library(tmp_path):
    """The same mask logits for a point as through transformers' own processor, where no resize blurs the comparison."""
    pytest.importorskip(NEEDED)
    from transformers import Sam2ImageProcessor, Sam2Model, Sam2Processor

    from ovbench.regions.sam2_predictor import Sam2Predictor

    folder = region_models.save_sam2(tmp_path / "sam2")
    image = np.ascontiguousarray(picture(70, 70)[:64, :64])
    processor = Sam2Processor(Sam2ImageProcessor(size={"height": 64, "width": 64}))
    model = Sam2Model.from_pretrained(folder).eval()
    model.mask_decoder.dynamic_multimask_via_stability = False
    for multimask in (False, True):
        inputs = processor(images=image, input_points=[[[[20, 33]], [[50, 7]]]], return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs, multimask_output=multimask)
        expected = processor.post_process_masks(out.pred_masks, inputs["original_sizes"], binarize=False)[0]
        predictor = Sam2Predictor(str(folder), "cpu", multimask=multimask, half=True)
        points = predictor.scaled(np.array([[20.0, 33.0], [50.0, 7.0]]), (64, 64))
        low, iou = predictor.decode(predictor.embed(image), torch.tensor(points))
        masks = predictor.enlarge(low.flatten(0, 1), (64, 64)).view_as(expected)
        torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(iou, out.iou_scores[0], rtol=1e-4, atol=1e-4)


def official_sam2(tmp_path, monkeypatch):
    """A small checkpoint with the tensor names of facebookresearch/sam2 1.1.0, and what that code computes with it."""
    from ovbench.regions import sam2_checkpoint

    case = np.load(DATA / "sam2_official.npz")
    draw = np.random.RandomState(0)
    state = {}
    for name, shape in (line.split() for line in str(case["names"]).splitlines()):
        values = draw.standard_normal(tuple(map(int, shape.split(",")))) * 0.2
        state[name] = torch.tensor(values, dtype=torch.float32) + float("norm" in name and name.endswith("weight"))
    state |= {"memory_attention.norm.weight": torch.ones(8), "obj_ptr_proj.layers.0.bias": torch.ones(8)}
    torch.save({"model": state}, tmp_path / "sam2_hiera_small.pt")
    small = {"stages": [1, 1, 2, 1], "heads": 1, "whole": [3], "windows": [8, 4, 4, 2]}
    monkeypatch.setitem(sam2_checkpoint.SIZES, (8, 5), small)
    official = sam2_checkpoint.config_of

    def for_64_pixels(state, path):
        config = official(state, path).to_dict()
        config["vision_config"] |= {"fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
        config["vision_config"]["backbone_config"]["image_size"] = [64, 64]
        config["prompt_encoder_config"] |= {"hidden_size": 32, "image_size": 64}
        config["mask_decoder_config"] |= {"hidden_size": 32, "iou_head_hidden_dim": 256}
        return transformers_config(config)

    from transformers import Sam2Config

    transformers_config = Sam2Config.from_dict
    monkeypatch.setattr(sam2_checkpoint, "config_of", for_64_pixels)
    return tmp_path / "sam2_hiera_small.pt", case


@pytest.mark.slow
def test_sam2_checkpoint_of_the_authors(tmp_path, monkeypatch):
    pytest.importorskip(NEEDED)
    from ovbench.regions.sam2_predictor import Sam2Predictor

    path, case = official_sam2(tmp_path, monkeypatch)
    image = np.random.RandomState(int(case["image_seed"])).randint(0, 256, (48, 40, 3), dtype=np.uint8)
    for multimask in (True, False):
        predictor = Sam2Predictor(str(path), "cpu", multimask=multimask, half=True)
        embedded = predictor.embed(image)
        points = predictor.scaled(np.array([[10.0, 20.0], [30.0, 5.0]]), (48, 40))
        low, iou = predictor.decode(embedded, torch.tensor(points))
        np.testing.assert_allclose(embedded[-1], case["features"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(low.clamp(-32, 32), case[f"low{int(multimask)}"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(iou, case[f"iou{int(multimask)}"], rtol=1e-3, atol=1e-5)


def test_sam2_checkpoint_messages(tmp_path):
    source = REGIONS.load("sam2-32")(weights=str(tmp_path / "sam2_hiera_large.pt"))
    assert source.missing() == [f"sam2_hiera_large.pt (looked in {tmp_path})"]
    with pytest.raises(InputError, match="no weights file"):
        source.fetch()
    torch.save({"model": {"blocks.0.weight": torch.ones(2)}}, tmp_path / "sam2_hiera_large.pt")
    assert source.missing() == [] and len(source.weights_sha256()) == 64
    with pytest.raises(InputError, match=r"is no checkpoint of Segment Anything 2.*give sam2_hiera"):
        source(picture())


@pytest.mark.slow
def test_mask2former_ids(tmp_path):
    pytest.importorskip(NEEDED)
    folder = region_models.save_mask2former(tmp_path / "m2f")
    make = REGIONS.load("mask2former")
    some = make(weights=str(folder), score=0.0, mask=0.3, overlap=0.0)(picture())
    assert some.shape == (70, 90) and some.min() >= 0 and some.max() >= 1
    none = make(weights=str(folder), score=0.9999999)(picture())
    assert set(np.unique(none)) == {-1}


@pytest.mark.slow
def test_eomt_ids(tmp_path):
    pytest.importorskip(NEEDED)
    folder = region_models.save_eomt(tmp_path / "eomt")
    make = REGIONS.load("eomt")
    some = make(weights=str(folder), score=0.0, mask=0.3, overlap=0.0)(picture())
    assert some.shape == (70, 90) and some.min() in (-1, 0) and some.max() >= 1
    assert make().score == 0.8 and list(make().options()["stuff_classes"]) == list(range(80, 133))


def test_weights_hash_follows_the_files(tmp_path):
    pytest.importorskip(NEEDED)
    folder = region_models.save_eomt(tmp_path / "eomt")
    source = REGIONS.load("eomt")(weights=str(folder))
    before = source.weights_sha256()
    config = json.loads((folder / "config.json").read_text()) | {"note": 1}
    (folder / "config.json").write_text(json.dumps(config))
    assert source.weights_sha256() != before


# --- maps made elsewhere ----------------------------------------------------------------------------------------------


def test_precomputed_maps_are_found_by_the_stem(tmp_path):
    ids = np.arange(70 * 90).reshape(70, 90) % 11
    np.savez_compressed(tmp_path / "ADE_val_00000001.npz", instance_mask=ids)
    maps = open_regions({"source": "precomputed", "folder": str(tmp_path), "key": "instance_mask"})
    assert maps.store is None
    assert np.array_equal(maps(picture(), "ADE_val_00000001"), ids)
    with pytest.raises(UsageError, match="this image has none"):
        maps(picture())
    with pytest.raises(InputError, match=r"no region map .*other\.npz"):
        maps(picture(), "other")


def test_precomputed_needs_its_folder():
    with pytest.raises(InputError, match=r"folder of region maps .*regions\.folder=DIR"):
        open_regions({"source": "precomputed", "folder": "nowhere"})


def test_a_source_without_the_library_or_its_files_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(InputError) as caught:
        open_regions({"source": "sam2"})
    pytest.importorskip(NEEDED)
    assert "model.safetensors of facebook/sam2-hiera-large" in str(caught.value)
    monkeypatch.setattr("ovbench.regions.transformers_models.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package transformers; pip install"):
        open_regions({"source": "eomt"})


def test_maps_are_made_lazily_and_on_the_device_asked_for():
    started = []

    class Probe(REGIONS.load("slic")):
        def start(self, device="cpu"):
            started.append(device)
            return self

    maps = Regions("probe", Probe()).to("cuda:1")
    assert not started
    maps(picture())
    maps(picture())
    assert started == ["cuda:1"] and maps.made == 2
