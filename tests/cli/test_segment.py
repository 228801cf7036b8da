"""`ovbench segment`."""

import numpy as np
import pytest
from PIL import Image

from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An image of mini under a name of its own."""
    return tmp_path_factory.mktemp("scene") / "my scene.png"


@pytest.fixture(autouse=True)
def drawn(scene, own_places):
    if not scene.exists():
        Image.fromarray(open_dataset(load_card("mini")).read_image(0)).save(scene)


@pytest.mark.parametrize("method", ["corrclip", "maskclip"])
def test_any_words(ovbench, tmp_path, scene, method):
    done = ovbench("segment", scene, "-c", "hedge; bush", "-c", "wood", "-c", "red ring", "--method", method,
                   "--like", "mini", "--out", tmp_path, "--json")  # fmt: skip
    assert done.code == 0, done.err
    result = done.json()
    assert [row["class"] for row in result["classes"]] == ["hedge", "wood", "red ring"]
    assert sum(row["share"] for row in result["classes"]) == pytest.approx(1)
    labels = np.array(Image.open(result["labels"]))
    assert labels.shape == Image.open(scene).size[::-1] and set(np.unique(labels)) <= {0, 1, 2}
    share = [float((labels == i).mean()) for i in range(3)]
    assert share == pytest.approx([row["share"] for row in result["classes"]])
    assert Image.open(result["overlay"]).size[0] > 600


def test_words_from_a_file_and_a_table(ovbench, tmp_path, scene):
    (tmp_path / "words.txt").write_text("# what grows\nhedge\n\n  # what is built\nwood; planks\n")
    words = ("--classes", tmp_path / "words.txt", "-c", "soil")
    done = ovbench("segment", scene, *words, "-m", "maskclip", "--like", "mini", "--out", tmp_path)
    assert done.code == 0 and all(word in done.out for word in ("hedge", "wood", "soil")) and "what" not in done.out
    assert "warning: clip is a toy network of mini" in done.err
    assert (tmp_path / "my scene-overlay.png").exists()


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
        (("{scene}", "-c", "dog"), 2, "--like mini for toy networks, which know only drawn images"),
        (
            ("{scene}", "-c", "dog,red cat", "--like", "mini"),
            2,
            "for several give -c dog -c 'red cat', for synonyms -c \"dog;red cat\"",
        ),
        (("{scene}", "-c", "dog", "-c", "Dog ; cat", "--like", "mini"), 3, 'two classes have the same name: "Dog"'),
    ],
)
def test_bad_input(ovbench, tmp_path, scene, arguments, code, message):
    places = {"scene": scene, "text": tmp_path / "notes.txt", "cut": tmp_path / "cut.png"}
    places["text"].write_text("no picture")
    places["cut"].write_bytes(scene.read_bytes()[:3000])
    done = ovbench("segment", *(a.format(**places) for a in arguments), "--out", tmp_path / "out")
    assert done.code == code, done.err
    assert message in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


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
