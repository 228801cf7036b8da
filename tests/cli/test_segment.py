"""`ovbench segment`."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.data.rle import decode_rle


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An image of mini under a name of its own."""
    return tmp_path_factory.mktemp("scene") / "my scene.png"


@pytest.fixture(autouse=True)
def drawn(scene, own_places):
    if not scene.exists():
        Image.fromarray(open_dataset(load_card("mini")).read_image(0)).save(scene)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["corrclip", "maskclip"])
def test_any_words(ovbench, tmp_path, scene, method):
    done = ovbench("segment", scene, "-c", "hedge; bush", "-c", "wood", "-c", "red ring", "--method", method,
                   "--like", "mini", "--out", tmp_path, "--json")  # fmt: skip
    assert done.code == 0, done.err
    result = done.json()
    assert [row["class"] for row in result["classes"]] == ["hedge", "wood", "red ring"]
    assert "toy network" in result["notes"][0]
    assert sum(row["share"] for row in result["classes"]) == pytest.approx(1)
    labels = np.array(Image.open(result["labels"]))
    assert labels.shape == Image.open(scene).size[::-1] and set(np.unique(labels)) <= {0, 1, 2}
    share = [float((labels == i).mean()) for i in range(3)]
    assert share == pytest.approx([row["share"] for row in result["classes"]])
    overlay = Image.open(result["overlay"])
    assert overlay.size[0] == 480 and overlay.size[1] > Image.open(scene).size[1]  # the legend is below the image


@pytest.mark.slow
def test_words_from_a_file_and_a_table(ovbench, tmp_path, scene):
    (tmp_path / "words.txt").write_text("# what grows\nhedge\n\n  # what is built\nwood; planks\n")
    words = ("--classes", tmp_path / "words.txt", "-c", "soil")
    done = ovbench("segment", scene, *words, "-m", "maskclip", "--like", "mini", "--out", tmp_path)
    assert done.code == 0 and all(word in done.out for word in ("hedge", "wood", "soil")) and "what" not in done.out
    assert "warning: clip is a toy network of mini" in done.err
    assert (tmp_path / "my scene-overlay.png").exists()


@pytest.mark.quick(6)
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("none.png", "-c", "dog", "--like", "mini"), 3, "none.png"),
        (("{scene}", "--like", "mini"), 2, "no classes given"),
        (("{scene}", "-c", " ; ", "--like", "mini"), 2, "an empty class name"),
        (("{text}", "-c", "dog", "--like", "mini"), 3, "notes.txt"),
        (("{cut}", "-c", "dog", "--like", "mini"), 3, "cut.png"),
        (("{scene}", "-c", "dog", "-m", "corrclp", "--like", "mini"), 2, 'did you mean "corrclip"'),
        (("{scene}", "-c", "dog", "--like", "vooc21"), 2, 'did you mean "voc21"'),
        (("{scene}", "-c", "dog"), 3, "missing weights: clip: open_clip_model.safetensors of"),
        (("{folder}", "-c", "dog", "--like", "mini"), 3, '/empty" holds no image'),
        (("{folder}/*.jpg", "-c", "dog", "--like", "mini"), 3, '*.jpg" matches no file'),
        (("{scene}", "-c", "dog", "--nothing", "0.5", "--like", "mini"), 2, "with one class every pixel has"),
        (("{scene}", "-c", "dog", "--save", "server", "--like", "ade150"), 2, "knows the classes of ade150 only"),
        (("{scene}", "--save", "server", "--like", "mini"), 2, "test server of mini is not known"),
        (("{scene}", "-c", "dog; puppy", "-c", "puppy", "--like", "mini"), 3, '"puppy" is a name of two classes'),
        (
            ("{scene}", "-c", "dog,red cat", "--like", "mini"),
            2,
            "for several give -c dog -c 'red cat', for synonyms -c \"dog;red cat\"",
        ),
        (("{scene}", "-c", "dog", "--like", "mini", "--out", "{text}"), 2, 'notes.txt" is a file, not a folder'),
        (("{scene}", "-c", "dog", "--like", "mini", "--out", "{text}/a/b"), 2, 'notes.txt" is a file, not a folder'),
        (("{scene}", "-c", "dog", "-c", "Dog ; cat", "--like", "mini"), 3, 'two classes have the same name: "Dog"'),
    ],
)
def test_bad_input(ovbench, tmp_path, scene, monkeypatch, arguments, code, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    places = {"scene": scene, "folder": tmp_path / "empty", "text": tmp_path / "notes.txt", "cut": tmp_path / "cut.png"}
    places["text"].write_text("no picture")
    places["cut"].write_bytes(scene.read_bytes()[:3000])
    done = ovbench("segment", "--out", tmp_path / "out", *(a.format(**places) for a in arguments))
    assert done.code == code, done.err
    assert message in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


ODD = {  # name: (mode, EXIF orientation)
    "rgba.png": ("RGBA", 1), "grey.png": ("L", 1), "deep.png": ("I;16", 1), "a b ü.jpg": ("RGB", 6),
    "sub/twice.png": ("RGB", 1), "twice.png": ("RGB", 1), "twice.jpg": ("RGB", 3),
}  # fmt: skip


def odd_images(folder):
    """Write small images of many kinds, one of them broken; the stored size is 60 x 40."""
    values = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    for name, (mode, orientation) in ODD.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        array = values[..., 0].astype(np.uint16) * 257 if mode == "I;16" else values
        picture = Image.fromarray(array) if mode == "I;16" else Image.fromarray(array).convert(mode)
        picture.save(folder / name, exif=exif)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "notes.txt").write_text("not an image")


SMALL = ("-m", "maskclip", "--like", "mini", "--set", "short_side=64", "--set", "crop=0", "-c", "hedge", "-c", "wood")


@pytest.mark.slow
def test_a_folder_of_odd_images(ovbench, tmp_path):
    odd_images(tmp_path / "in")
    saved = [f"--save={what}" for what in ("overlay", "labels", "masks", "coco", "scores", "confidence")]
    words = (*SMALL, *saved, "--nothing", "0.55", "--out", tmp_path / "out", "--json")
    done = ovbench("segment", tmp_path / "in", tmp_path / "in" / "grey.png", *words)
    assert done.code == 4 and "failed: " in done.err and "broken.jpg" in done.err
    result = done.json()
    assert list(result["failed"]) == [str(tmp_path / "in" / "broken.jpg")]
    assert len(result["images"]) == len(ODD) and len({one["labels"] for one in result["images"]}) == len(ODD)
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["hedge", "wood"]
    for one in result["images"]:
        _, orientation = ODD[one["image"].removeprefix(f"{tmp_path / 'in'}/")]
        label_map = Image.open(one["labels"])
        assert json.loads(label_map.text["classes"]) == ["hedge", "wood", "nothing of these"]
        assert label_map.size == ((40, 60) if orientation == 6 else (60, 40)) and one["orientation"] == orientation
        assert ("orientation" in label_map.text) == (orientation != 1)
        labels, kept = np.array(label_map), np.load(one["scores"])
        assert kept["scores"].shape[0] == 2 and kept["confidence"].shape == labels.shape
        assert np.allclose(kept["scores"].astype(float).sum(0), 1, atol=0.01)
        grey = np.array(Image.open(one["confidence"]))
        assert ((labels == 2) == (kept["confidence"].astype(float) < 0.55))[abs(grey / 255 - 0.55) > 0.01].all()
        number = next(each["id"] for each in coco["images"] if each["file_name"] == one["image"])
        masks = {each["category_id"]: each for each in coco["annotations"] if each["image_id"] == number}
        for value in range(2):
            area = int((labels == value).sum())
            assert masks.get(value + 1, {"area": 0})["area"] == area
            if area:
                assert np.array_equal(decode_rle(masks[value + 1]["segmentation"], where=""), labels == value)
        files = sorted(tmp_path.joinpath(one["masks"]).iterdir())
        assert sum(np.array(Image.open(file)).astype(bool).sum() for file in files) == labels.size
    again = ovbench("segment", tmp_path / "in", *words)
    assert again.code == 3 and "outputs exist" in again.err and "--existing replace" in again.err
    more = ovbench("segment", tmp_path / "in", *words, "--existing", "skip")
    assert more.code == 3 and "broken.jpg" in more.err  # only this one is left
    assert json.loads((tmp_path / "out" / "coco.json").read_text()) == coco
    other = ovbench("segment", tmp_path / "in", *words, "-c", "sky", "--existing", "skip")
    assert other.code == 3 and "the output has other classes" in other.err


@pytest.mark.slow
def test_outputs_of_an_earlier_run_are_no_images(ovbench, tmp_path, scene):
    (tmp_path / "scene.png").write_bytes(scene.read_bytes())
    assert ovbench("segment", tmp_path, *SMALL, "--out", tmp_path).code == 0
    done = ovbench("segment", tmp_path / "*.png", *SMALL, "--out", tmp_path, "--existing", "replace", "--json")
    assert done.code == 0 and "2 outputs of an earlier run are not labelled" in done.err and "replaced" in done.err
    assert [one["image"] for one in done.json()["images"]] == [str(tmp_path / "scene.png")]


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["image", "paths"])
def test_standard_input(ovbench, tmp_path, scene, monkeypatch, kind):
    data = scene.read_bytes() if kind == "image" else f"{scene}\n\n".encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    done = ovbench("segment", "-", *SMALL, "--out", tmp_path, "--save", "labels", "--save", "coco")
    assert done.code == 0, done.err
    assert kind == "paths" or json.loads((tmp_path / "coco.json").read_text())["images"][0]["file_name"] == "-"
    assert (tmp_path / ("stdin-labels.png" if kind == "image" else "my scene-labels.png")).exists()


@pytest.mark.slow
def test_the_classes_and_values_of_a_test_server(ovbench, tmp_path, scene):
    (tmp_path / "berlin_000000_000019_leftImg8bit.png").write_bytes(scene.read_bytes())
    words = ("--like", "cityscapes", "--weights", "clip=mini", "--set", "short_side=64", "--set", "crop=0")
    words = ("-m", "maskclip", *words, "--save", "server", "--out", tmp_path / "out", "--json")
    done = ovbench("segment", tmp_path, *words)
    assert done.code == 0, done.err
    assert len(done.json()["classes"]) == 19
    values = np.unique(np.array(Image.open(tmp_path / "out" / "server" / "berlin_000000_000019_labelIds.png")))
    assert set(values) <= {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}


@pytest.mark.slow
def test_a_picture_is_labelled_upright(ovbench, tmp_path, scene):
    """A camera held upright stores the picture lying, with a tag that says so."""
    turned, exif = Image.open(scene).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn it to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    options = ("-c", "hedge", "-c", "wood", "-m", "maskclip", "--like", "mini", "--out", tmp_path, "--json")
    one, other = (ovbench("segment", path, *options).json() for path in (scene, tmp_path / "turned.png"))
    first, second = (np.array(Image.open(found["labels"])) for found in (one, other))
    assert np.array_equal(first, second)
