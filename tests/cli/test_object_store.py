"""Data, sweeps, ledgers and records in an object store with the protocol of S3, without append and rename."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, ImageOps
from test_sweep import IMAGES, SMALL, lines, one_thread, text_of  # noqa: F401  a fixture

from ovbench.cluster.sweep import read_sweep
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_json, write_json
from ovbench.utils.folders import create_file, folder_at, names_in
from ovbench.utils.paths import shipped

pytestmark = pytest.mark.slow
KILLED = """
import os, signal, sys
from ovbench.cluster.worker import Heartbeat, work
from ovbench.utils.folders import folder_at
image, images = Heartbeat.image, []
def killed(self):
    image(self)
    images.append(1)
    if len(images) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Heartbeat.image = killed
work(folder_at(sys.argv[1]))
"""


@pytest.fixture
def bucket(monkeypatch):
    """An empty folder of a bucket, on a server of this process."""
    server = pytest.importorskip("moto.server", reason='no S3 server: pip install "moto[s3]" flask flask-cors')
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    s3fs.S3FileSystem.clear_instance_cache()  # it would use the address of an earlier server
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    names = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (names | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    folder_at(f"s3://{name}").fs.mkdir(name)
    yield folder_at(f"s3://{name}/runs")
    running.stop()


def test_of_many_writers_one_creates_a_file_and_listings_are_not_old(bucket):
    assert names_in(bucket) == [] and not (bucket / "one").exists()
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: create_file(bucket / "one", str(n).encode()), range(8)))
    assert created.count(True) == 1 and (bucket / "one").read_text() == str(created.index(True))
    write_json(bucket / "two.json", {"a": 1})
    write_json(bucket / "two.json", {"a": 2})
    assert read_json(bucket / "two.json") == {"a": 2} and sorted(names_in(bucket)) == ["one", "two.json"]
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])  # another process
    client.put_object(Bucket=bucket.parts[0].strip("/"), Key="runs/three", Body=b"3")
    assert (bucket / "three").exists() and "three" in names_in(bucket)
    with pytest.raises(InputError, match=r"cannot read the file: .*none.json"):
        read_json(bucket / "none.json")


CARD = """
name = "scenes"
title = "some images of mini"
classes = "{classes}"
roots = ["mini"]
layout = [{{ image = "images/val/{{id}}.png", label = "labels/val/{{id}}.png" }}]
"""


@pytest.fixture
def scenes(bucket, drawn_mini, tmp_path):
    """Images of `mini` in the bucket and in a folder: the options of a cell, without its data root, and both roots."""
    here, there = tmp_path / "data", bucket.parent / "data"
    for label in sorted((drawn_mini / "labels/val").iterdir())[:IMAGES]:
        for kind in ("images", "labels"):
            data, name = (drawn_mini / kind / "val" / label.name).read_bytes(), f"mini/{kind}/val/{label.name}"
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_bytes(data)
            (there / name).write_bytes(data)
    card = tmp_path / "scenes.toml"
    card.write_text(CARD.format(classes=shipped("datasets", "classes", "mini.txt")))
    return ("-m", "maskclip", "-d", card, "--weights", "clip=mini", "--device", "cpu", *SMALL), here, there


def test_a_killed_worker_loses_and_doubles_nothing(
    ovbench, one_thread, scenes, bucket, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    cell, here, there = scenes
    done = ovbench("eval", *cell, "--data-root", here, "--out", tmp_path / "whole")
    assert done.code == 0, done.err
    done = ovbench("sweep", "plan", *cell, "--data-root", there, "--minutes", "0.0001", "--out", bucket)
    assert done.code == 0 and len(read_sweep(bucket).tasks) == IMAGES + 2, done.err
    monkeypatch.setenv("OVBENCH_CACHE", str(bucket.parent / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run([sys.executable, "-c", KILLED, str(bucket)], env=environment, capture_output=True, text=True)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert len(lines(bucket)) == 1  # the image of the finished task
    (name,) = names_in(bucket.parent / "cache/text")  # of the worker that was killed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    seen = ovbench("sweep", "watch", bucket, "--once", "--json").json()
    assert seen["tasks"]["running"] == 1 and not seen["finished"]
    done = ovbench("sweep", "work", bucket)
    assert done.code == 0, done.err
    assert text_of(bucket) == text_of(tmp_path / "whole") and len(lines(bucket)) == IMAGES
    vectors = tmp_path / "second/ovbench/text" / name
    assert vectors.read_bytes() == (bucket.parent / "cache/text" / name).read_bytes()
    names = [path.name for path in bucket.glob("sweep/*/tasks/*.lost")]
    assert names == ["000002.1.lost"]
    assert ovbench("sweep", "watch", bucket).code == 0
    shown = ovbench("table", "--runs", bucket)
    assert shown.code == 0 and "maskclip" in shown.out, shown.err
    (record,) = bucket.glob("*.json")
    sent = bucket.parent / "sent"
    assert ovbench("runs", "pack", record, "--out", sent).code == 0
    (bundle,) = sent.iterdir()
    assert ovbench("table", bundle).out == shown.out
    compared = ovbench("compare", record, bundle, "--json")
    assert compared.code == 0 and len(names_in(sent)) == 1, compared.err


def test_a_changed_image_is_counted_again_and_failures_are_one_sentence(
    ovbench, one_thread, scenes, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    cell, _, there = scenes
    counted, out = ("eval", *cell, "--data-root", there, "--out", tmp_path / "runs"), tmp_path / "runs"
    for _ in range(2):
        done = ovbench(*counted)
        assert done.code == 0 and len(lines(out)) == IMAGES, done.err
    names = sorted(names_in(there / "mini/images/val"))
    one, two = (there / "mini/images/val" / name for name in names[:2])
    time.sleep(1.1)  # a store states whole seconds
    one.write_bytes(one.read_bytes())
    assert ovbench(*counted).code == 0 and len(lines(out)) == IMAGES  # only the time differs
    mirrored = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(two.read_bytes()))).save(mirrored, "PNG")
    two.write_bytes(mirrored.getvalue())
    assert ovbench(*counted).code == 0 and len(lines(out)) == IMAGES + 2  # one is withdrawn and counted
    two.unlink()
    missing = ovbench(*counted)
    assert missing.code == 3 and f"1 labels have no image, first {there}/mini/labels/val" in missing.err
    none = ovbench("eval", *cell, "--data-root", "s3://none/data", "--out", tmp_path / "none")
    assert none.code == 2 and 'no files at the data root "s3://none/data"' in none.err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    sentence = "cannot reach the store: Unable to locate credentials"
    for words in (counted, ("table", there), ("eval", *cell, "--data-root", tmp_path / "data", "--out", there)):
        closed = ovbench(*words)
        assert closed.code == 3 and sentence in closed.err, closed.err
