"""What a report says: losses against a recomputation, confusions, what it makes of damaged runs, and escaping."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from report_runs import random_counts, write_run

from ovbench.config.load import cell_of, resolve
from ovbench.data.card import load_card
from ovbench.data.palettes import benchmark_palette
from ovbench.evaluation.record import COUNTS, score_fields
from ovbench.metrics.confusion import ClassPixels, Confusion, PixelCounts
from ovbench.metrics.interval import LEVEL, iou_intervals
from ovbench.metrics.iou import scores
from ovbench.metrics.stacked import stack_counts
from ovbench.results.report.error_images import RelabelOptions, label_again, moved_pixels
from ovbench.results.report.page import build_page
from ovbench.results.report.page_data import pack_cells
from ovbench.results.report.ranking import MOST_CONFUSIONS, PER_CLASS, confusions, loss_of_images, rank_images
from ovbench.results.report.rerun_command import command_of
from ovbench.results.report.runs import gather, notes_of
from ovbench.results.report.template import inert_json
from ovbench.utils.errors import InputError, OvbenchError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.paths import asset

NAMES = ["sky", "grass", "water", "road", "tree"]


def cells(*rows):
    return PixelCounts(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def miou(counts, classes):
    total = Confusion(classes)
    for one in counts:
        total.add(one)
    return scores(total).miou


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("outside", [True, False])
def test_loss_is_what_a_perfect_image_would_gain(seed, outside):
    classes = 9
    counts = random_counts(np.random.default_rng(seed), 12, classes, outside)
    for number, found in enumerate(loss_of_images(counts, classes)):
        one = counts[number]
        kept = one.label < classes  # pixels of no class are best predicted as none
        perfect = PixelCounts(one.label, np.where(kept, one.label, classes), one.pixels)
        gained = miou([*counts[:number], perfect, *counts[number + 1 :]], classes) - miou(counts, classes)
        assert found == pytest.approx(gained, abs=1e-12)


def test_a_class_that_one_image_alone_invented_leaves_the_mean():
    """Two classes at IoU 1 and a third that is nowhere true: mIoU 2/3, and 1 without that mistake but for sky's."""
    counts = [cells((0, 0, 10)), cells((1, 1, 10), (0, 2, 10))]
    assert loss_of_images(counts, 3) == pytest.approx([0, 1 - (0.5 + 1 + 0) / 3])
    assert loss_of_images([cells((0, 1, 4))], 2) == pytest.approx([1])
    assert loss_of_images([cells((2, 1, 4))], 2).tolist() == [0]  # nothing is left to score
    assert loss_of_images([], 2).tolist() == []


def test_wrong_pixels_are_those_that_aacc_counts():
    counts = [cells((0, 0, 30), (0, 1, 10), (2, 1, 99)), cells((2, 1, 5))]
    found = rank_images(counts, 2)
    assert found.wrong[0] == 0.25 and np.isnan(found.wrong[1])


def test_intervals_hold_the_value_and_absent_classes_have_none():
    counts = random_counts(np.random.default_rng(1), 40, 6, False)
    total = Confusion(7)
    for one in counts:
        total.add(one)
    bounds, iou = iou_intervals(stack_counts(counts, 7)), scores(total).iou
    assert np.isnan(bounds[6]).all() and np.isnan(iou_intervals(stack_counts(counts[:1], 7))).all()
    assert (bounds[:6, 0] < iou[:6]).all() and (iou[:6] < bounds[:6, 1]).all() and LEVEL == 0.95
    few = [cells((0, 0, 5), (0, 1, 2)), cells((0, 0, 5)), cells((0, 0, 1), (0, 2, 1))]
    once = iou_intervals(stack_counts(few, 3))
    assert not np.isnan(once[0]).any() and np.isnan(once[1:]).all()  # one image says nothing of the spread


def test_confusions_are_wrong_pixels_with_their_share():
    found = confusions([cells((0, 0, 60), (0, 1, 40)), cells((1, 0, 5), (1, 1, 5), (2, 0, 7), (0, 2, 100))], 2)
    assert [tuple(pair) for pair in found] == [(0, 2, 100, 0.5), (0, 1, 40, 0.2), (1, 0, 5, 0.5)]


def test_confusions_are_bounded_and_leave_no_class_out():
    classes = 60
    rows = [(a, b, 1000 - a) for a in range(classes) for b in range(classes)]
    found = confusions([cells(*rows)], classes)
    assert len(found) <= 2 * MOST_CONFUSIONS + 2 * PER_CLASS * classes
    assert {pair.label for pair in found} == {pair.predicted for pair in found} == {*range(classes)}
    assert confusions([cells((0, 0, 5))], 2) == []


def test_packed_cells_come_back():
    counts = random_counts(np.random.default_rng(2), 4, 5)
    raw = zlib.decompress(base64.b64decode(pack_cells(counts)))
    starts = np.frombuffer(raw, "<u4", 5)
    total = starts[-1]
    pixels = np.frombuffer(raw, "<u4", total, 20)
    labels, guesses = (np.frombuffer(raw, "<u2", total, 20 + at * total) for at in (4, 6))
    for number, one in enumerate(counts):
        part = slice(starts[number], starts[number + 1])
        assert (pixels[part] == one.pixels).all()
        assert (labels[part] == one.label).all() and (guesses[part] == one.predicted).all()


def test_moved_pixels():
    before = cells((0, 0, 50), (0, 1, 10))
    assert moved_pixels(before, before, 2) == 0
    assert moved_pixels(before, cells((0, 0, 47), (0, 1, 10), (1, 1, 3)), 2) == 3


@pytest.mark.slow
def test_equal_notes_are_said_once(tmp_path):
    for name in ("first", "second"):
        path = write_run(tmp_path, random_counts(np.random.default_rng(0), 2, 5), NAMES, name=name)
        write_json(path, {**read_json(path), "ledger": "gone"})
    runs = gather([tmp_path])
    ((note, files),) = notes_of(runs).items()
    assert files == ["first.json", "second.json"] and str(tmp_path) not in note
    assert build_page(runs, 0, RelabelOptions()).decode().count("no ledger beside the record") == 1


def relative_luminance(colour):
    """WCAG 2.2."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
def test_the_best_complete_run_is_open_first(tmp_path):
    generator = np.random.default_rng(0)
    for name, split in (("a", 12), ("b", 12), ("part", 50)):
        write_run(tmp_path, random_counts(generator, 12, 5), NAMES, name=name, split_images=split)
    runs = gather([tmp_path])
    scores = {run.path.stem: run.record["metrics"]["mIoU"] for run in runs if not run.partial}
    page = build_page(runs, 0, RelabelOptions()).decode()
    selected = re.search(r'<option value="(\d)" selected', page)[1]
    assert len(scores) == 2 and runs[int(selected)].path.stem == max(scores, key=scores.get)
    assert page.count(" selected ") == 1


def test_a_benchmark_has_its_own_colours():
    assert benchmark_palette("voc21", 21)[:3] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    assert benchmark_palette("voc20", 20)[0] == (128, 0, 0)
    assert benchmark_palette("ade150", 150)[2] == (6, 230, 230) and benchmark_palette("ade150", 151) is None
    assert benchmark_palette("mini", 28) is None and benchmark_palette("../palettes/voc21", 21) is None


def test_a_run_of_a_benchmark_is_shown_in_its_colours(tmp_path):
    names = list(load_card("cityscapes").classes)
    cell = {**resolve("clip", "cityscapes").as_dict()}
    write_run(tmp_path, random_counts(np.random.default_rng(0), 12, 19), names, cell=cell)
    (run,) = gather([tmp_path])
    page = build_page([run], 0, RelabelOptions()).decode()
    assert '"colours":["#804080","#f423e8"' in page


def test_text_can_be_read_in_both_colour_schemes():
    """4.5 to 1 for text, 3 to 1 for bars and their intervals against what they lie on."""
    light, dark = re.findall(r":root \{(.*?)\}", asset("report", "page.css").read_text(), re.DOTALL)
    pairs = [(text, page, 4.5) for text in ("text", "quiet", "accent") for page in ("page", "raised", "chosen")]
    pairs += [("warn", "warn-page", 4.5), ("on-accent", "accent", 4.5), ("whisker", "bar", 3), ("whisker", "track", 3)]
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for text, page, least in pairs:
            bright, dim = sorted((relative_luminance(colours[c]) for c in (text, page)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (text, page)


def test_text_in_data_stays_text(tmp_path):
    """Names of classes and images, and reasons of failures, come from files."""
    hostile = "</script><script>document.title='taken'</script><!--"
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 3, 5), [hostile, *NAMES[1:]],
                     ids=[hostile, "b", "c"])  # fmt: skip
    record = read_json(path)
    write_json(path, {**record, "failed": {hostile: hostile}, "versions": {hostile: hostile}})
    page = build_page(gather([path]), 0, RelabelOptions()).decode()
    assert hostile not in page and "<script>document" not in page and "<!--" not in page
    assert re.findall(r"<script(?![^>]*application/json)[^>]*>", page) == ["<script>"]
    data = json.loads(re.search(r'<script type="application/json" id="run-0">(.*?)</script>', page)[1])
    assert data["classes"][0] == hostile and hostile in data["images"]["ids"]


def test_inert_json_is_json():
    value = {"</script>": ["&\u2028<!--", 1.5, None]}
    text = inert_json(value)
    assert not re.search("[<>&\u2028]", text) and json.loads(text) == value


def test_the_page_lets_nothing_out_and_is_the_same_twice(tmp_path):
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 3, 5), NAMES)
    page, again = (build_page(gather([path]), 0, RelabelOptions()).decode() for _ in range(2))
    assert page == again
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"(?:src|href)=.?https?:|url\(|@import|<link", page)
    assert not re.search(r"\sstyle=|\son\w+=", page.split("<script")[0])  # the policy would refuse them


def gathered(path):
    (run,) = gather([path])
    return run


@pytest.mark.slow
def test_partial_runs_and_longer_ledgers(tmp_path):
    """A ledger may hold the images of a later, longer run of the same cell."""
    counts = random_counts(np.random.default_rng(0), 8, 5)
    whole = write_run(tmp_path, counts, NAMES)
    part = write_run(tmp_path / "other", counts[:3], NAMES, split_images=8)
    record = read_json(part)
    write_json(tmp_path / "part.json", record)
    run = gathered(tmp_path / "part.json")
    assert run.partial and run.ids == [f"image_{n:04d}" for n in range(3)] and not run.notes
    assert not gathered(whole).partial
    assert "partial: of 8" in build_page([run], 0, RelabelOptions()).decode()


def test_what_is_not_there_is_said(tmp_path):
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 4, 5), NAMES)
    record = read_json(path)

    def note(**changed):
        write_json(path, {**record, **changed})
        run = gathered(path)
        assert not run.ids and not run.counts
        page = build_page([run], 5, RelabelOptions()).decode()
        assert "no confusions and no images" in page
        return " ".join(run.notes)

    assert "no ledger beside the record" in note(ledger="gone")
    assert "has other settings" in note(settings_sha256="1" * 64)
    swapped = ClassPixels(*(np.array(record["counts"][name])[::-1] for name in COUNTS))
    assert "another run" in note(**score_fields(swapped, NAMES))
    told = note(dataset={**record["dataset"], "images": 2, "ids_sha256": "0" * 64})
    assert "not known which 2 the record covers" in told


def test_records_that_are_none(tmp_path):
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 2, 5), NAMES)
    record = read_json(path)
    columns = {**record["counts"], "union": [-1] * 5}
    metrics = {**record["metrics"], "mIoU_interval": [0.5, None]}
    for changed in (
        {"counts": {}}, {"counts": columns}, {"cell": []}, {"per_class": []}, {"per_class": [{}] * 5}, {"time": None},
        {"metrics": metrics}, {"failed": {"a": 1}}, {"dataset": {**record["dataset"], "classes": [1] * 5}},
    ):  # fmt: skip
        write_json(path, {**record, **changed})
        with pytest.raises(InputError, match="not a complete record"):
            gather([path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no record"):
        gather([tmp_path / "empty"])


@pytest.mark.slow
def test_ledgers_that_are_none(tmp_path):
    """A ledger with a good checksum may still say nonsense."""
    nonsense = ([[9], [0], [1]], [[0, 1], [0], [1]], [[-1], [0], [1]], [[0], [0]], [["a"], [0], [1]])
    for number, wrong in enumerate(nonsense):
        folder = tmp_path / str(number)
        path = write_run(folder, random_counts(np.random.default_rng(0), 1, 5), NAMES)
        (part,) = (folder / "run").glob("*.jsonl")
        head, line = part.read_bytes().splitlines(keepends=True)
        body = json.dumps({**json.loads(line[9:]), "counts": wrong}).encode() + b"\n"
        part.write_bytes(head + b"%08x " % zlib.crc32(body) + body)
        assert "no confusions and no images" in gathered(path).notes[0]


def test_a_folder_and_its_record_are_one_run(tmp_path):
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 2, 5), NAMES)
    assert len(gather([tmp_path, path])) == 1


def test_cells_come_back_from_records():
    for method in ("corrclip", "maskclip"):
        cell = resolve(method, "mini", {"templates": "simple_1"} if method == "corrclip" else {})
        assert cell_of(cell.as_dict()).digest() == cell.digest()
    plain = resolve("clip", "mini").as_dict()
    with pytest.raises(OvbenchError, match="no_such"):
        cell_of({**plain, "protocol": {**plain["protocol"], "no_such": 1}})


def test_code_that_a_record_names_is_not_run(tmp_path):
    """A record is data: the file that it names runs only where the user says so."""
    code = tmp_path / "method.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\nclass Mine: pass\n")
    cell = {**resolve("clip", "mini").as_dict(), "method": f"{code}:Mine"}
    path = write_run(tmp_path, random_counts(np.random.default_rng(0), 2, 5), NAMES, cell=cell)
    run = gathered(path)
    build_page([run], 1, RelabelOptions())
    assert not (tmp_path / "ran").exists() and "--run-code" in run.notes[0]


def test_pictures_need_the_benchmark(tmp_path):
    """Other classes than the card's, and images that it does not have."""
    run = gathered(write_run(tmp_path, random_counts(np.random.default_rng(0), 2, 5), NAMES))
    assert label_again(run, run.ids, RelabelOptions(), lambda: None) == []
    assert "images are not shown: the card has other classes" in run.notes[0]


def test_the_command_of_a_record():
    def command(**arguments):
        return command_of({"arguments": {"method": "corrclip", "dataset": "mini", **arguments}})

    assert command() == "ovbench eval -m corrclip -d mini"
    assert command(settings={"tau": 0.3, "regions": "slic"}).endswith("--set tau=0.3 --set regions=slic")
    assert command(settings={"scope": False, "mean": [1.0, 2, 3]}).endswith("--set scope=false --set mean=1.0,2,3")
    assert command(settings={"refine": "", "depth": None}).endswith("--set refine= --set depth=none")
    assert command(protocol="common", limit=5).endswith("-d mini --protocol common --limit 5")
    assert command(dataset="my card.toml").endswith("-d 'my card.toml'")
    assert command(subset="a.json", precision="fp16", compile=True).endswith(
        "--subset a.json --precision fp16 --compile"
    )
    assert command_of({"schema": 1}) is None
