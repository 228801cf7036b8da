"""Files are complete or absent, whatever happens to their writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ovbench.utils import files
from ovbench.utils.errors import InputError
from ovbench.utils.files import (
    ABANDONED_S,
    read_json,
    read_text,
    remove_leftovers,
    replacing,
    temporary_path,
    write_bytes,
    write_json,
)
from ovbench.utils.processes import each, each_with
from ovbench.utils.read_ahead import WriteBehind, read_ahead

KILLED = """
import os, signal, sys
from pathlib import Path
from ovbench.utils.files import replacing

with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
NEXT = "import sys; from pathlib import Path; from ovbench.utils.files import write_bytes; "
NEXT += "write_bytes(Path(sys.argv[1]), b'new')"


def python(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], timeout=60).returncode


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    write_bytes(tmp_path / "a.json", b"old")
    assert python(KILLED, tmp_path / "a.json") == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 and (tmp_path / "a.json").read_bytes() == b"old"
    assert python(NEXT, tmp_path / "other.json") == 0
    assert names(tmp_path) == ["a.json", "other.json"]


def test_the_temporary_file_of_a_living_writer_stays(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [temporary.name]
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leftovers_of_other_machines_are_removed_when_they_are_old(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(files, "_machine", lambda: "0" * 8)
    left = temporary_path(tmp_path / "a")
    left.mkdir() if kind == "folder" else left.write_bytes(b"half")
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [left.name]
    old = time.time() - ABANDONED_S - 60
    os.utime(left, (old, old))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_files_of_the_user_are_not_leftovers(tmp_path):
    for name in (".hidden", "a.tmp", "results.ovbench-tmp"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 3


def test_file_and_folder_are_flushed_in_order(tmp_path, monkeypatch):
    events, flush, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda n: (events.append("folder" if os.path.isdir(f"/proc/self/fd/{n}") else "file"), flush(n))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("kinds of open files come from /proc")
    write_bytes(tmp_path / "a", b"1")
    assert events == ["file", "replace", "folder"]
    write_bytes(tmp_path / "b", b"1", durable=False)
    assert events[3:] == ["replace"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch, error):
    write_json(tmp_path / "a.json", {"n": 1})
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(error, os.strerror(error))))
    with pytest.raises(InputError, match=f"cannot write the file: {os.strerror(error)}.*run the same command again"):
        write_json(tmp_path / "a.json", {"n": 2})
    assert names(tmp_path) == ["a.json"] and read_json(tmp_path / "a.json") == {"n": 1}


def test_a_file_system_that_cannot_flush_folders_is_written_to(tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(number):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "a", b"1")
    assert names(tmp_path) == ["a"]


def test_an_error_of_the_block_passes_and_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "new" / "a") as temporary:
        temporary.write_bytes(b"half")
        1 / 0  # noqa: B018
    assert names(tmp_path / "new") == []


def test_a_folder_in_the_place_of_the_file_is_an_input_error(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="cannot write the file"):
        write_bytes(tmp_path / "a", b"1")
    assert names(tmp_path) == ["a"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_longest_names_can_be_written(tmp_path):
    write_bytes(tmp_path / ("a" * 255), b"1")
    assert names(tmp_path) == ["a" * 255]


def _plus(number):
    return lambda task: (number, task + 1)


@pytest.mark.slow
def test_a_pool_gives_results_in_order_and_builds_once_per_worker():
    assert list(each(abs, range(-20, 0), workers=2)) == list(range(20, 0, -1))
    assert [task for _, task in each_with(_plus, range(6), workers=2)] == [1, 2, 3, 4, 5, 6]
    assert list(each_with(_plus, [1, 2])) == [(0, 2), (0, 3)]


@pytest.mark.slow
def test_an_error_of_a_worker_ends_the_pool():
    with pytest.raises(TypeError):
        list(each(abs, ["text"] * 20, workers=2))


def test_reading_ahead_is_bounded_and_raises_at_its_place():
    started = []

    def read(task):
        started.append(task)
        return 1 / task

    seen = []
    with pytest.raises(ZeroDivisionError):
        for task, future in read_ahead(read, [4, 2, 1, 0, 5, 6, 7, 8, 9], ahead=2):
            seen.append((task, future.result()))
    assert seen == [(4, 0.25), (2, 0.5), (1, 1.0)]
    assert set(started) <= {4, 2, 1, 0, 5}


def test_writes_are_in_order_and_few_wait():
    written, behind, gate = [], [], threading.Event()

    def write(number):
        gate.wait(5)
        written.append(number)

    with WriteBehind(3) as writer:
        for number in range(8):
            if number == 3:
                assert written == []  # the caller was not held up so far
                gate.set()
            writer.call(write, number)
            behind.append(number + 1 - len(written))
    assert written == list(range(8)) and max(behind) <= 3


def test_a_failed_write_is_the_last_one_and_is_raised():
    written = []

    def write(number):
        if number == 1:
            raise InputError("the disk is full")
        written.append(number)

    with pytest.raises(InputError, match="full"), WriteBehind(4) as writer:
        for number in range(4):
            writer.call(write, number)
    assert written == [0]
    with pytest.raises(KeyboardInterrupt), WriteBehind(4) as writer:
        writer.call(write, 1)
        raise KeyboardInterrupt
    assert written == [0]
    with pytest.raises(KeyboardInterrupt), WriteBehind(4) as writer:
        writer.call(write, 3)
        raise KeyboardInterrupt
    assert written == [0, 3]  # what was labelled is still written


def test_a_pipe_or_a_device_is_written_into_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(pipe, b"abc")
    assert os.read(reader, 9) == b"abc" and pipe.is_fifo()
    os.close(reader)
    with (tmp_path / "x").open("w+b") as file:
        write_bytes(Path(f"/dev/fd/{file.fileno()}"), b"def")
    assert (tmp_path / "x").read_bytes() == b"def"


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence():
    with pytest.raises(InputError, match="a worker process was killed"):
        list(each(_kill, range(20), 2))


def _kill(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_device_is_not_read():
    for read in (read_json, lambda path: read_text(path, "list")):
        with pytest.raises(InputError, match="a device is not a file"):
            read(Path("/dev/null"))
