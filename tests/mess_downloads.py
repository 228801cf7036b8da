"""Tiny downloads of the grouped benchmarks in the form in which they are published, and the classes that they mean.

Every builder writes below ``at`` and returns ``{image id: classes}``, 255 where a pixel is ignored.
"""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from ovbench.data.prepare import mess, mess_tables, remote_sensing

RNG = np.random.default_rng(5)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(array, np.uint8))
    if options.pop("palette", False):
        picture = picture.convert("P") if picture.mode != "L" else Image.frombytes("P", picture.size, picture.tobytes())
        picture.putpalette([v % 256 for v in range(7, 775)])
    picture.save(path, **options)
    return path


def photo(path, size=(6, 8)):
    return save(path, RNG.integers(0, 256, (*size, 3)))


def painted(classes, colours):
    return np.array(colours)[classes]


def bdd100k(at):
    photo(at / "images/10k/val/a.jpg")
    values = RNG.choice([0, 18, 255], (6, 8))
    save(at / "labels/sem_seg/colormaps/val/a.png", values, palette=True)
    return {"a": values}


def dark_zurich(at):
    photo(at / "rgb_anon/val/night/GOPR0356/f1_rgb_anon.png")
    ids, sure = np.array([[0, 7, 33, 33]]), np.array([[0, 0, 0, 255]])
    save(at / "gt/val/night/GOPR0356/f1_gt_labelIds.png", np.tile(ids, (6, 2)))
    save(at / "gt/val/night/GOPR0356/f1_gt_invGray.png", np.tile(sure, (6, 2)))
    return {"f1": np.tile([[0, 1, 19, 255]], (6, 2))}


def mhp_v1(at):
    photo(at / "images/0001.jpg")
    first, second = np.zeros((6, 8)), np.full((6, 8), 3)
    first[:3] = 18
    save(at / "annotations/0001_01_01.png", first)
    save(at / "annotations/0001_01_02.png", second)
    (at / "test_list.txt").write_text("0001.jpg\n")
    return {"0001": np.maximum(first, second)}


def atlantis(at):
    photo(at / "images/test/canal/c1.jpg")
    save(at / "masks/test/canal/c1.png", np.tile([[0, 1, 56, 7]], (6, 2)))
    return {"c1": np.tile([[255, 0, 55, 6]], (6, 2))}


def dram(at):
    photo(at / "test/impressionism/monet/m1.jpg")
    save(at / "labels/impressionism/monet/m1.png", np.tile([[0, 3, 17, 255]], (6, 2)))
    return {"monet_m1": np.tile([[11, 0, 10, 255]], (6, 2))}


def tiled(folder_image, folder_label, image, label, name, classes, at, paint=lambda values: values):
    """Two tiles side by side; the second is padded."""
    photo(at / folder_image / image, classes.shape)
    save(at / folder_label / label, paint(classes))
    whole = np.full((mess.SIDE, 2 * mess.SIDE), 255)
    whole[: classes.shape[0], : classes.shape[1]] = classes
    return {f"{name}_0": whole[:, : mess.SIDE], f"{name}_1": whole[:, mess.SIDE :]}


def isaid(at):
    classes = RNG.integers(0, 16, (5, 20))
    return tiled("val/images", "raw_val/images", "P1.png", "P1_instance_color_RGB.png", "P1", classes, at,
                 lambda values: painted(values, mess_tables.ISAID))  # fmt: skip


def isprs_potsdam(at):
    classes = RNG.integers(0, 6, (5, 20))
    return tiled("3_Ortho_IRRG", "Labels", "top_potsdam_2_13_IRRG.tif", "top_potsdam_2_13_label.tif", "2_13", classes,
                 at, lambda values: np.clip(painted(values, mess_tables.POTSDAM), 3, 250))  # fmt: skip


def floodnet(at):
    classes = RNG.integers(0, 10, (5, 20))
    return tiled("test/test-org-img", "test/test-label-img", "7.jpg", "7_lab.png", "7", classes, at)


def uavid(at):
    classes = RNG.integers(0, 8, (5, 20))
    return tiled("uavid_val/seq1/Images", "uavid_val/seq1/Labels", "000.png", "000.png", "seq1_000", classes, at,
                 lambda values: painted(values, mess_tables.UAVID))  # fmt: skip


def worldfloods(at):
    import tifffile

    values = RNG.integers(0, 4, (5, 20)).astype(np.uint8)
    (at / "test/S2").mkdir(parents=True)
    (at / "test/gt").mkdir()
    bands = np.zeros((13, 5, 20), np.float32)
    bands[7], bands[3] = 3981.96268494 + 2500.47885249, (3418.90147615 + 2811.78109878) / 2
    tifffile.imwrite(at / "test/S2/e1.tif", bands)
    tifffile.imwrite(at / "test/gt/e1.tif", values)
    whole = np.full((mess.SIDE, 2 * mess.SIDE), 255)
    whole[:5, :20] = np.array([255, 0, 1, 2])[values]
    return {"e1_0": whole[:, : mess.SIDE], "e1_1": whole[:, mess.SIDE :]}


def kvasir_instrument(at):
    photo(at / "images/k1.jpg")
    save(at / "masks/k1.png", np.tile([[[0] * 3, [254] * 3, [255] * 3, [255] * 3]], (6, 2, 1)))
    (at / "test.txt").write_text("k1\n")
    return {"k1": np.tile([[0, 0, 1, 1]], (6, 2))}


def chase_db1(at):
    for number in range(10):
        photo(at / f"Image_{number:02d}L.jpg")
        Image.fromarray(np.tile([[True, False, True, True]], (6, 2))).save(at / f"Image_{number:02d}L_1stHO.png")
    return {f"Image_0{n}L": np.tile([[1, 0, 1, 1]], (6, 2)) for n in (8, 9)}


def cryonuseg(at):
    photo(at / "tissue images/t1.tif")
    annotator = "Annotator 1 (biologist second round of manual marks up)"
    save(at / annotator / annotator / "mask binary/t1.png", np.tile([[0, 255, 128, 255]], (6, 2)))
    return {"t1": np.tile([[0, 1, 0, 1]], (6, 2))}


def paxray(at):
    photo(at / "images/x1.png")
    channels = np.zeros((166, 6, 8), np.uint8)
    channels[163, 2] = 1
    np.save(at / "x1.npy", channels)
    (at / "paxray.json").write_text(json.dumps({"test": [{"image": "images/x1.png", "target": "x1.npy"}]}))
    return {"x1": channels[163]}


def deepcrack(at):
    photo(at / "test_img/d1.jpg")
    save(at / "test_lab/d1.png", np.tile([[0, 255, 254, 255]], (6, 2)))
    return {"d1": np.tile([[0, 1, 0, 1]], (6, 2))}


def suim(at):
    photo(at / "TEST/images/s1.jpg")
    classes = RNG.integers(0, 8, (6, 8))
    save(at / "TEST/masks/s1.bmp", painted(classes, mess_tables.SUIM))
    return {"s1": classes}


def cub_200(at):
    photo(at / "images/002.Laysan_Albatross/b1.jpg")
    photo(at / "images/003.Sooty_Albatross/b2.jpg")
    (at / "images.txt").write_text("1 002.Laysan_Albatross/b1.jpg\n2 003.Sooty_Albatross/b2.jpg\n")
    (at / "train_test_split.txt").write_text("1 0\n2 1\n")
    save(at / "segmentations/002.Laysan_Albatross/b1.png", np.tile([[0, 128, 129, 255]], (6, 2)))
    return {"b1": np.tile([[0, 0, 2, 2]], (6, 2))}


def cwfid(at):
    for number in (1, 2):
        photo(at / f"images/{number:03d}_image.png")
    classes = RNG.integers(0, 3, (6, 8))
    save(at / "annotations/001_annotation.png", painted(classes, [(0, 0, 0), (255, 0, 0), (0, 255, 0)]))
    return {"001": classes}


def rs_loveda(at):
    photo(at / "Val/Rural/images_png/1.png")
    save(at / "Val/Rural/masks_png/1.png", np.tile([[0, 1, 7, 2]], (6, 2)))
    return {"1": np.tile([[255, 0, 6, 1]], (6, 2))}


def rs_potsdam(at):
    classes = RNG.integers(0, 6, (5, 8))
    colours = painted(classes, mess_tables.POTSDAM)
    colours[0, 0] = (0, 0, 0)
    classes[0, 0] = 255
    photo(at / "2_Ortho_RGB/top_potsdam_2_13_RGB.tif", (5, 8))
    save(at / "5_Labels_all_noBoundary/top_potsdam_2_13_label_noBoundary.tif", colours)
    whole = np.full((512, 512), 255)
    whole[:5, :8] = classes
    return {"2_13_0_0_512_512": whole}


def vaihingen_areas(at):
    """One of the 17 areas and one of the others: GeoTIFF as published, the label named noBoundary, 513 columns."""
    classes = RNG.integers(0, 7, (5, 513))  # 6: the black, eroded borders
    colours = [*mess_tables.POTSDAM, (0, 0, 0)]
    for area in (2, 1):
        photo(at / f"top/top_mosaic_09cm_area{area}.tif", (5, 513))
        eroded = at / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
        save(eroded / f"top_mosaic_09cm_area{area}_noBoundary.tif", painted(classes, colours))
    whole = np.full((512, 513), 255)
    whole[:5] = np.where(classes == 6, 255, classes)
    return {f"area2_{left}_0_{left + 512}_512": whole[:, left : left + 512] for left in (0, 1)}


def rs_isaid(at):
    """Images and masks as unpacked, with instance masks beside them; a side of 900 has two tiles, 5 is padded."""
    classes = RNG.integers(0, 16, (5, 900))
    photo(at / "val/images/images/P0003.png", (5, 900))
    colours = painted(classes, mess_tables.ISAID)
    colours[0, 0] = (1, 2, 3)  # a colour of no class is background
    classes[0, 0] = 0
    save(at / "val/Semantic_masks/images/images/P0003_instance_color_RGB.png", colours)
    save(at / "val/Instance_masks/images/P0003_instance_id_RGB.png", colours)
    photo(at / "train/images/images/P0001.png", (5, 900))
    save(at / "train/Semantic_masks/images/P0001_instance_color_RGB.png", colours)
    whole = np.full((896, 900), 255)
    whole[:5] = classes
    return {f"P0003_0_896_{left}_{left + 896}": whole[:, left : left + 896] for left in (0, 4)}


def rs_openearthmap(at):
    """The archive's regions; val.txt lists names with suffix, also of xBD regions that the archive lacks."""
    for region, number in (("aachen", 1), ("aachen", 2), ("tyrolw", 3)):
        photo(at / f"OpenEarthMap_wo_xBD/{region}/images/{region}_{number}.tif")
        save(at / f"OpenEarthMap_wo_xBD/{region}/labels/{region}_{number}.tif", np.tile([[0, 1, 8, number]], (6, 2)))
    (at / "OpenEarthMap_wo_xBD/val.txt").write_text("aachen_1.tif\ntyrolw_3.tif\nhurricane_9.tif\n")
    return {"aachen_1": np.tile([[0, 1, 8, 1]], (6, 2)), "tyrolw_3": np.tile([[0, 1, 8, 3]], (6, 2))}


def rs_uavid(at):
    colours = list(remote_sensing.UAVID)
    index = RNG.integers(0, 8, (5, 8))
    photo(at / "test_gt/seq21/Images/0.png", (5, 8))
    save(at / "test_gt/seq21/Labels/0.png", painted(index, colours))
    whole = np.full((1280, 1080), 255)
    whole[:5, :8] = np.array(list(remote_sensing.UAVID.values()))[index]
    return {"seq21_0_0_1280_0_1080": whole}


def mapillary(at):
    photo(at / "validation/images/v1.jpg", (12, 16))
    values = np.repeat(np.repeat(RNG.choice([13, 2, 0, 52, 65], (6, 8)), 2, 0), 2, 1)
    save(at / "validation/v1.2/labels/v1.png", values, palette=True)
    table = dict(zip([13, 2, 0, 52, 65], [0, 1, 255, 18, 255], strict=True))
    return {"v1": np.vectorize(table.get)(values[::2, ::2])}


BUILDERS = {
    "mess-bdd100k": bdd100k, "mess-dark-zurich": dark_zurich, "mess-mhp-v1": mhp_v1, "mess-atlantis": atlantis,
    "mess-dram": dram, "mess-isaid": isaid, "mess-isprs-potsdam": isprs_potsdam, "mess-worldfloods": worldfloods,
    "mess-floodnet": floodnet, "mess-uavid": uavid, "mess-kvasir-instrument": kvasir_instrument,
    "mess-chase-db1": chase_db1, "mess-cryonuseg": cryonuseg, "mess-paxray-diaphragm": paxray,
    "mess-deepcrack": deepcrack, "mess-suim": suim, "mess-cub-200": cub_200, "mess-cwfid": cwfid,
    "rs-loveda": rs_loveda, "rs-potsdam": rs_potsdam, "rs-vaihingen": vaihingen_areas, "rs-isaid": rs_isaid,
    "rs-openearthmap": rs_openearthmap, "rs-uavid": rs_uavid, "mapillary": mapillary,
}  # fmt: skip
