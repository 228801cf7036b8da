"""Building reference sets from bad input, and using damaged ones: messages, exit codes, and what is left on disk."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is an extra")

from safetensors.numpy import load_file, save_file

from ovbench.evaluation.distributed import ProcessGroup, Shard
from ovbench.methods.reme.reference_store import load_set
from ovbench.methods.reme.set_folder import find_set, read_manifest
from ovbench.training.reference_set.builder import Sources, build_set
from ovbench.training.reference_set.captioning import open_captions
from ovbench.training.reference_set.chunks import SourceImage
from ovbench.training.reference_set.inspect import verify_set
from ovbench.training.reference_set.merge_sets import merge_sets
from ovbench.training.reference_set.settings import resolve_plan
from ovbench.utils.errors import InputError, UsageError

pytestmark = pytest.mark.skipif(not find_spec("textblob"), reason="TextBlob is an extra")  # not imported: takes seconds
COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 160, 70)}
SETTINGS = {"regions": "slic", "regions.segments": "6", "short_side": "64", "pairing_short_side": "64"}


def plan(**more):
    return resolve_plan("mini", SETTINGS | {key: str(value) for key, value in more.items()})


def draw(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        a, b = list(COLOURS.values())[number % 3], list(COLOURS.values())[(number + 1) % 3]
        image = np.full((72, 96, 3), a, np.uint8)
        image[20:50, 30:70] = b
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])


def captions(path, rows):
    path.write_text("".join(json.dumps({"image_id": i, "caption": c}) + "\n" for i, c in rows))
    return str(path)


GOOD = ("a red box and a blue ball on grass", "a blue ring on sand", "a green box and water")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Seven images in two parts, of which four are fit to be used; "z" is of one colour."""
    root = tmp_path_factory.mktemp("world")
    draw(root / "images", ["a", "b", "mute", "verb", "x", "z"])
    cv2.imwrite(str(root / "images" / "z.png"), np.full((72, 96, 3), 90, np.uint8))
    (root / "images" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    rows = [*zip("abx", GOOD, strict=True), ("z", "grey gravel"), ("verb", "it is running"), ("torn", "a red box")]
    return root, captions(root / "captions.jsonl", rows)


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("set")
    manifest = build_set(Sources(world[0] / "images", world[1], out, chunk_size=4), plan(), "cpu", ProcessGroup())
    return out, manifest


@pytest.fixture
def copy(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.slow
def test_images_that_cannot_be_used_are_named_and_the_others_kept(built):
    out, manifest = built
    assert manifest["without_caption"] == ["mute"] and manifest["without_noun"] == ["verb"]
    assert list(manifest["failed"]) == ["torn"] and "torn.jpg" in manifest["failed"]["torn"]
    counts = manifest["counts"]
    assert (counts["images"], counts["images_paired"], counts["captions_without_noun"]) == (7, 4, 1)
    assert [text for text in manifest["warnings"] if "cannot be read" in text]
    assert verify_set(out) == []
    page = (out / "report.html").read_text()
    assert "data:image/jpeg" in page and "Counts" in page


@pytest.mark.slow
def test_an_image_of_one_segment_takes_its_phrases(built):
    import pyarrow.parquet as pq

    images = pq.read_table(built[0] / "segments.parquet")["image"].to_pylist()
    assert "z" in images


@pytest.mark.slow
def test_building_again_reuses_every_stage(built, world, monkeypatch):
    from ovbench.training.reference_set import stages

    def refuse(*arguments):
        raise AssertionError("a stage ran again")

    for name in ("caption_chunk", "phrase_chunk", "pair_chunk", "feature_chunk"):
        monkeypatch.setattr(stages, name, refuse)
    before = {name: entry["sha256"] for name, entry in built[1]["files"].items()}
    again = build_set(Sources(world[0] / "images", world[1], built[0], chunk_size=4), plan(), "cpu", ProcessGroup())
    assert {name: entry["sha256"] for name, entry in again["files"].items()} == before


@pytest.mark.slow
def test_a_build_that_was_cut_off_goes_on(built, copy, world):
    """A stage's file is gone, the manifest with it, and a caption draft ends in half a line."""
    (copy / "manifest.json").unlink()
    part = built[1]["parts"][0]
    for stage, suffix in (("captions", ".jsonl"), ("phrases", ".jsonl"), ("pairs", ".parquet")):
        path = next(copy.glob(f"stages/{stage}-*")) / f"{part}{suffix}"
        if stage == "captions":
            lines = path.read_text().splitlines(keepends=True)
            path.with_suffix(".partial").write_text(lines[0] + lines[1][:9])
        path.unlink()
    with pytest.raises(InputError, match="no reference set"):
        find_set(str(copy))
    again = build_set(Sources(world[0] / "images", world[1], copy, chunk_size=4), plan(), "cpu", ProcessGroup())
    assert again["files"] == built[1]["files"] and not list(copy.rglob("*.partial"))


@pytest.mark.slow
def test_shards_united_are_the_whole(built, world, tmp_path):
    sets = []
    for number in (1, 2):
        sources = Sources(world[0] / "images", world[1], tmp_path / str(number), chunk_size=4, shard=Shard(number, 2))
        build_set(sources, plan(), "cpu", ProcessGroup())
        sets.append(tmp_path / str(number))
    united = merge_sets(sets, tmp_path / "all")
    for name in ("segments-00000.safetensors", "labels-00000.safetensors", "o_ref.safetensors", "ambiguous.csv"):
        assert united["files"][name] == built[1]["files"][name], name
    assert united["counts"] == built[1]["counts"] and verify_set(tmp_path / "all") == []


@pytest.mark.slow
def test_filters_can_run_again_without_networks(built, tmp_path):
    free = merge_sets([built[0]], tmp_path / "free", {"filter": "none", "synonyms": "off"})
    assert free["counts"]["pairs_after_filter"] == free["counts"]["base_pairs"] == free["counts"]["final_pairs"]
    with pytest.raises(UsageError, match="pairing"):
        merge_sets([built[0]], tmp_path / "no", {"pairing": "other"})


@pytest.mark.slow
def test_a_variant_is_made_once(copy, monkeypatch):
    place = find_set(f"{copy}?filter=none&synonyms=off")
    assert read_manifest(place)["settings"]["build"]["filter"] == "none" and place.parent.parent == copy
    monkeypatch.setattr("ovbench.training.reference_set.merge_sets.merge_sets", None)
    assert find_set(f"{copy}?filter=none&synonyms=off") == place
    assert not [path for path in place.parent.iterdir() if path.name.startswith(".")]
    with pytest.raises(UsageError, match="key=value"):
        find_set(f"{copy}?filter")


@pytest.mark.slow
def test_a_set_keeps_its_reading_of_masks_and_labels(built, world, tmp_path):
    """Whoever looks a segment up pools it as the set was pooled; a set with another reading is another set."""
    from ovbench.methods.reme.set_folder import content_hash

    usual = load_set(built[0])
    assert usual.bank.zeta == "area" and set(built[1]["used_with"]) == {"templates", "short_side"}
    sources = Sources(world[0] / "images", world[1], tmp_path / "nearest", chunk_size=4)
    build_set(sources, plan(zeta="nearest"), "cpu", ProcessGroup())
    nearest = load_set(tmp_path / "nearest")
    assert nearest.bank.zeta == "nearest" and nearest.sha256 != usual.sha256
    with pytest.raises(InputError, match="differ in pairs: zeta"):
        merge_sets([built[0], tmp_path / "nearest"], tmp_path / "all")
    with pytest.raises(UsageError, match="zeta"):
        merge_sets([built[0]], tmp_path / "no", {"zeta": "bilinear"})
    shared = merge_sets([built[0]], tmp_path / "shared", {"o_rownorm": "on"})
    assert shared["files"]["o_ref.safetensors"] == built[1]["files"]["o_ref.safetensors"]
    assert content_hash(shared) != usual.sha256
    bank = load_set(tmp_path / "shared").bank
    assert bank.matrix().sum(1).tolist() == pytest.approx([1.0] * len(bank.segments))


@pytest.mark.slow
def test_the_same_images_twice_are_refused(built, copy, world, tmp_path):
    with pytest.raises(InputError, match="in two sets"):
        merge_sets([built[0], copy], tmp_path / "all")
    other = tmp_path / "other"
    build_set(Sources(world[0] / "images", world[1], other, chunk_size=5), plan(), "cpu", ProcessGroup())
    with pytest.raises(InputError, match="is in two sets"):
        merge_sets([built[0], other], tmp_path / "again")


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.slow
def test_sets_of_different_encoders_are_not_united(built, copy, tmp_path):
    edit(copy, lambda m: m["encoders"]["dinov2"].update(sha256="f" * 64))
    with pytest.raises(InputError, match="differ in dinov2 encoder"):
        merge_sets([built[0], copy], tmp_path / "all")


@pytest.mark.slow
def test_a_set_of_another_encoder_is_not_used(copy):
    from ovbench.config.load import Protocol
    from ovbench.methods.reme.reference_bank import Encoder

    bank = load_set(copy).bank
    with pytest.raises(InputError, match="built with the dinov2"):
        protocol = Protocol(short_side=64, templates="reme_4")
        bank.require({"dinov2": Encoder("vit_large_patch14_dinov2", "e" * 64)}, protocol)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_encoder(path):
    arrays = load_file(path)
    save_file(arrays, path, {"encoder": "f" * 64, "name": "other"})


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("segments-00000.safetensors", cut, "truncated"),
        ("segments-00000.safetensors", flip, "has changed"),
        ("labels-00000.safetensors", other_encoder, "encoder ffffffff"),
        ("segments.parquet", cut, "truncated"),
        ("o_ref.safetensors", lambda path: path.unlink(), "missing"),
    ],
)
def test_verify_finds_damage(copy, name, damage, message):
    damage(copy / name)
    if damage is other_encoder:  # somebody also adapted the manifest
        path = copy / name
        edit(copy, lambda m: m["files"][name].update(bytes=path.stat().st_size))
    problems = verify_set(copy)
    assert any(message in text and name in text for text in problems), problems
    if damage is not flip:
        with pytest.raises(InputError):
            load_set(copy)


@pytest.mark.slow
def test_no_phrase_at_all_is_an_error_that_counts(world, tmp_path):
    draw(tmp_path / "images", ["a", "b"])
    source = captions(tmp_path / "c.jsonl", [("a", "it is running")])
    with pytest.raises(InputError, match=r"of 2 images 1 have no caption, 1 captions with no noun"):
        build_set(Sources(tmp_path / "images", source, tmp_path / "out"), plan(), "cpu", ProcessGroup())
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_filters_that_leave_nothing_are_an_error(built, tmp_path):
    (tmp_path / "roots.txt").write_text("\n".join(["box", "ball", "ring", "water", "sand", "grass", "gravel"]))
    with pytest.raises(InputError, match="the filters dropped all"):
        merge_sets([built[0]], tmp_path / "out", {"ambiguous": "list", "ambiguous_list": str(tmp_path / "roots.txt")})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "source", "message"),
    [
        ("nowhere", "c.jsonl", "no folder"),
        ("empty", "c.jsonl", "no image in"),
        ("images", "nothing.jsonl", "no captions at"),
        ("images", "torn.jsonl", "line 2"),
        ("images", "torn.json", "not a COCO captions file"),
    ],
)
def test_missing_and_malformed_input(tmp_path, images, source, message):
    draw(tmp_path / "images", ["a"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.jsonl").write_text("")
    (tmp_path / "torn.jsonl").write_text('{"image_id": "a", "caption": "a dog"}\n{"image_id": "b"}\n')
    (tmp_path / "torn.json").write_text('{"images": []}')
    with pytest.raises(InputError, match=message):
        build_set(Sources(tmp_path / images, str(tmp_path / source), tmp_path / "out"), plan(), "cpu", ProcessGroup())


@pytest.mark.parametrize(
    "settings", [{"filter": "mean"}, {"ambiguous": "list"}, {"drop_percent": 100}, {"no_such_setting": 1}]
)
def test_settings_are_checked_first(settings):
    with pytest.raises(UsageError):
        plan(**settings)


class Server(BaseHTTPRequestHandler):
    answers: list = []  # noqa: RUF012
    asked: list = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        status, answer = self.answers.pop(0) if self.answers else (200, {"choices": [{"message": {"content": " ok "}}]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("ovbench.training.chat.time.sleep", lambda seconds: None)
    http = HTTPServer(("127.0.0.1", 0), Server)
    Server.answers, Server.asked = [], []
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()


def test_a_caption_server_is_asked_again_when_it_is_busy(server, tmp_path):
    draw(tmp_path, ["a"])
    Server.answers = [(503, {}), (429, {})]
    ask = open_captions("openai:some-model", "Describe.", base_url=server)
    assert ask(SourceImage("a", tmp_path / "a.png")) == ["ok"]
    path, body = Server.asked[-1]
    assert len(Server.asked) == 3 and path == "/v1/chat/completions" and body["model"] == "some-model"
    kinds = [part["type"] for part in body["messages"][0]["content"]]
    assert kinds == ["text", "image_url"] and body["temperature"] == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [((401, {}), "401"), ((200, {"choices": []}), "not a chat completion"), ((200, "x"), "not a chat completion")],
)
def test_a_caption_server_that_refuses_is_named(server, tmp_path, answer, message):
    draw(tmp_path, ["a"])
    Server.answers = [answer]
    with pytest.raises(InputError, match=message):
        open_captions("openai:some-model", "Describe.", base_url=server)(SourceImage("a", tmp_path / "a.png"))


def test_an_answer_without_text_is_no_caption(server, tmp_path):
    draw(tmp_path, ["a"])
    ask = open_captions("openai:some-model", "Describe.", base_url=server)
    for content in (None, "", "  "):
        Server.answers = [(200, {"choices": [{"message": {"content": content}}]})]
        assert ask(SourceImage("a", tmp_path / "a.png")) == []


@pytest.mark.slow
def test_one_torn_image_does_not_stop_a_model(server, tmp_path):
    """A server would only say that the request is bad, and the build could never go on."""
    draw(tmp_path / "images", ["a", "b"])
    (tmp_path / "images" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    good = (200, {"choices": [{"message": {"content": "a red box on grass"}}]})
    Server.answers = [good, good]
    sources = Sources(tmp_path / "images", "openai:m", tmp_path / "out", base_url=server)
    manifest = build_set(sources, plan(), "cpu", ProcessGroup())
    assert list(manifest["failed"]) == ["torn"] and "torn.jpg" in manifest["failed"]["torn"]
    assert manifest["without_caption"] == [] and manifest["counts"]["images_paired"] == len(Server.asked) == 2


@pytest.mark.slow
def test_captions_that_were_paid_for_are_kept_when_the_server_dies(server, tmp_path):
    draw(tmp_path / "images", ["a", "b", "c"])
    good = {"choices": [{"message": {"content": "a red box on grass"}}]}
    Server.answers = [(200, good), (200, good), (401, {})]
    sources = Sources(tmp_path / "images", "openai:m", tmp_path / "out", base_url=server)
    with pytest.raises(InputError, match="401"):
        build_set(sources, plan(), "cpu", ProcessGroup())
    Server.asked = []
    Server.answers = [(200, good)]
    assert build_set(sources, plan(), "cpu", ProcessGroup())["counts"]["captions"] == 3
    assert len(Server.asked) == 1


def test_captions_as_files_and_as_coco(tmp_path):
    (tmp_path / "texts" / "sub").mkdir(parents=True)
    (tmp_path / "texts" / "sub" / "a.txt").write_text("a dog\n\na cat\n")
    assert open_captions(str(tmp_path / "texts"), "")(SourceImage("sub/a", tmp_path)) == ["a dog", "a cat"]
    document = {"images": [{"id": 3, "file_name": "a.jpg"}], "annotations": [{"image_id": 3, "caption": "a dog"}]}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    coco = open_captions(str(tmp_path / "coco.json"), "")
    assert coco(SourceImage("sub/a", tmp_path)) == ["a dog"] and coco(SourceImage("b", tmp_path)) == []
    (tmp_path / "both.csv").write_text("image,caption\na.jpg,a dog\nsub/a.jpg,a cat\n")
    both = open_captions(str(tmp_path / "both.csv"), "")
    assert both(SourceImage("sub/a", tmp_path)) == ["a cat"] and both(SourceImage("other/a", tmp_path)) == ["a dog"]
    with pytest.raises(UsageError, match="not a source of captions"):
        open_captions(str(tmp_path / "texts.xml"), "")


def test_a_manifest_of_something_else(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match="not a reference set"):
        read_manifest(tmp_path)
