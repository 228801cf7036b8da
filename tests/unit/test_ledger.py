"""The ledger survives torn lines, refuses strangers, and belongs to one process at a time."""

import errno
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from ovbench.evaluation.ledger import Entry, LedgerWriter, header_digest, read_ledger
from ovbench.evaluation.set_aside import set_aside
from ovbench.metrics.confusion import PixelCounts
from ovbench.utils.errors import InputError
from ovbench.utils.files import temporary_path
from ovbench.utils.lock import lock

HEADER = {"cell": {"method": "clip", "tau": 0.25}, "weights": "abc"}


def entry(name, n=1):
    return Entry(name, PixelCounts(*(np.array(v) for v in ([0, 1], [0, 2], [n, 7]))), None, {"read": 0.25})


def fill(folder, *names, part="0"):
    with LedgerWriter(folder, part, HEADER) as ledger:
        for name in names:
            ledger.add(entry(name))
    return folder / f"part-{part}.jsonl"


def test_what_is_added_is_read_back(tmp_path):
    fill(tmp_path, "a", "b/ü")
    fill(tmp_path, "c", part="1")
    read = read_ledger(tmp_path, HEADER)
    assert list(read) == ["a", "b/ü", "c"]
    assert [v.tolist() for v in read["a"].counts] == [[0, 1], [0, 2], [1, 7]]
    assert read["a"].seconds == {"read": 0.25} and read["a"].failed is None


@pytest.mark.parametrize("cut", [1, 7, 30, 60])
def test_a_torn_line_is_dropped_and_cut_off(tmp_path, cut):
    path = fill(tmp_path, "a", "b")
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_ledger(tmp_path, HEADER)) == ["a"]
    fill(tmp_path, "c")
    assert list(read_ledger(tmp_path, HEADER)) == ["a", "c"]


def damage(path, number, old, new):
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new)
    path.write_bytes(b"".join(lines))


def test_a_damaged_line_costs_itself_alone_and_is_told(tmp_path):
    path = fill(tmp_path, "a", "b", "c", "d")
    damage(path, 2, b'"b"', b'"x"')
    read = read_ledger(tmp_path, HEADER)
    assert list(read) == ["a", "c", "d"] and read.damaged == {path: 1}
    assert read.remarks() == [f"1 damaged line in {path}; the others are used"]
    fill(tmp_path, "b")
    assert list(read_ledger(tmp_path, HEADER)) == ["a", "c", "d", "b"]


def test_a_damaged_header_costs_nothing_where_the_folder_says_whose_it_is(tmp_path):
    named = tmp_path / f"run-{header_digest(HEADER)[:8]}"
    for folder, wanted in ((named, ["a", "b"]), (tmp_path / "run-00000000", ["b"])):
        damage(fill(folder, "a"), 0, b'"format"', b'"fromat"')
        read = read_ledger(folder, HEADER)
        assert list(read) == wanted[:-1] and sum(read.damaged.values()) == 3 - len(wanted)
        fill(folder, "b")
        assert list(read_ledger(folder, HEADER)) == wanted


def test_parts_that_disagree_are_refused_and_named(tmp_path):
    fill(tmp_path, "a", "b")
    with LedgerWriter(tmp_path, "1", HEADER) as ledger:
        ledger.add(entry("b"))
    assert len(read_ledger(tmp_path, HEADER)) == 2  # equal counts are no disagreement
    with LedgerWriter(tmp_path, "2", HEADER) as ledger:
        ledger.add(entry("b", n=2))
    with pytest.raises(InputError, match=r"different counts of the image b \(.*part-0.jsonl and .*part-2.jsonl\)"):
        read_ledger(tmp_path, HEADER)


RUNS = [{"started": f"2026-11-2{day}T10:12:00.000000+00:00", "git": None} for day in range(4)]
DATA = [{"image": [10, time, digest]} for time, digest in ((1, "aa"), (2, "aa"), (3, "bb"))]


def test_counts_of_changed_files_take_the_place_of_the_old_in_whatever_part_they_are(tmp_path):
    with LedgerWriter(tmp_path, "1", HEADER) as ledger:
        ledger.add(entry("a")._replace(run=RUNS[0], data=DATA[0]))
        ledger.add(entry("b")._replace(run=RUNS[0], data=DATA[0]))
    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        ledger.add(entry("a", n=5)._replace(run=RUNS[1], data=DATA[2]))
        ledger.add(entry("b")._replace(run=RUNS[1], data=DATA[1]))  # a copy with another date
        ledger.add(Entry("b", None, None, {}, run=RUNS[1], void=True))
    read = read_ledger(tmp_path, HEADER)
    assert read["a"].counts.pixels.tolist() == [5, 7] and read["a"].run == RUNS[1] and read["a"].data == DATA[2]
    assert read["b"].run == RUNS[1]  # void is the older line
    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        ledger.add(Entry("a", None, None, {}, run=RUNS[2], void=True))
    assert list(read_ledger(tmp_path, HEADER)) == ["b"]


def test_where_the_line_with_a_run_s_details_is_damaged_the_others_keep_their_date(tmp_path):
    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        for name in ("a", "b"):
            ledger.add(entry(name)._replace(run=RUNS[0]))
        ledger.add(entry("c")._replace(run=RUNS[1]))
    assert [each.run for each in read_ledger(tmp_path, HEADER).values()] == [RUNS[0], RUNS[0], RUNS[1]]
    damage(tmp_path / "part-0.jsonl", 1, b'"a"', b'"x"')
    read = read_ledger(tmp_path, HEADER)
    assert read["b"].run == {"started": RUNS[0]["started"]} and read["c"].run == RUNS[1]


def test_an_earlier_ledger_is_set_aside_with_its_records_and_never_under_a_writer(tmp_path):
    folder, place = tmp_path / "run", tmp_path / "earlier" / "1"
    part = fill(folder, "a")
    (tmp_path / "run.json").write_text("{}")
    with LedgerWriter(folder, "0", HEADER), pytest.raises(InputError, match="another process is running this cell"):
        set_aside(folder, [tmp_path / "run.json"], place)
    assert part.exists() and (tmp_path / "run.json").exists() and not place.exists()
    fill(folder, "b", part="shard1of2-0")
    assert set_aside(folder, [], tmp_path / "earlier" / "0", "shard1of2-") == tmp_path / "earlier" / "0"
    assert part.exists() and not (folder / "part-shard1of2-0.jsonl").exists()
    assert set_aside(folder, [tmp_path / "run.json"], place) == place
    assert list(read_ledger(place / "run", HEADER)) == ["a"] and (place / "run.json").exists()
    assert not part.exists() and set_aside(folder, [], place) is None


def test_every_prefix_of_a_ledger_can_be_read(tmp_path):
    path = fill(tmp_path, "a", "b")
    whole = path.read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        seen.add(tuple(read_ledger(tmp_path, HEADER)))
    assert seen == {(), ("a",), ("a", "b")}


def test_another_run_is_refused_by_the_field_that_differs(tmp_path):
    fill(tmp_path, "a")
    with pytest.raises(InputError, match='"weights" is "abc" there and "xyz" now') as refused:
        read_ledger(tmp_path, HEADER | {"weights": "xyz"})
    assert "--fresh" not in str(refused.value)
    with pytest.raises(InputError, match=r'"cell\.tau" is 0\.25 there and 0\.5 now'):
        read_ledger(tmp_path, HEADER | {"cell": {"method": "clip", "tau": 0.5}})


def test_two_processes_cannot_write_one_part(tmp_path):
    with (
        LedgerWriter(tmp_path, "0", HEADER),
        pytest.raises(InputError, match="another process is running this cell") as refused,
        LedgerWriter(tmp_path, "0", HEADER),
    ):
        pass
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(refused.value)
    fill(tmp_path, "a")  # the lock went with its holder
    (tmp_path / ".part-0.lock").write_text("process 1 on another-host\n")
    with LedgerWriter(tmp_path, "0", HEADER):  # what a killed holder left
        assert f"process {os.getpid()} " in (tmp_path / ".part-0.lock").read_text()


def test_a_process_that_looks_for_locks_does_not_hold_the_lock(tmp_path, monkeypatch):
    import fcntl

    flock, others = fcntl.flock, []

    def while_it_looks(*arguments):
        flock(*arguments)
        if not others:
            others.append(None)
            others.append(lock(tmp_path / "lock", "busy", "wait"))

    monkeypatch.setattr("fcntl.flock", while_it_looks)
    with pytest.raises(InputError, match=f"busy: process {os.getpid()} on "):
        lock(tmp_path / "lock", "busy", "wait")
    others[1].release()
    lock(tmp_path / "lock", "busy", "wait").release()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_a_process_left_that_was_killed_while_it_looked_is_removed(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr(os, "getpid", lambda: dead.pid)
    temporary_path(tmp_path / "lock").touch()
    monkeypatch.undo()
    lock(tmp_path / "lock", "busy", "wait").release()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_called_one(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match=r"has no file locks .* `ovbench sweep`"):
        LedgerWriter(tmp_path, "0", HEADER)


def test_a_count_replaces_an_earlier_failure_and_is_never_doubled(tmp_path):
    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        ledger.add(Entry("a", None, "truncated", {}))
        ledger.add(entry("a"))
        ledger.add(entry("a"))
    read = read_ledger(tmp_path, HEADER)
    assert len(read) == 1 and read["a"].counts.pixels.tolist() == [1, 7]


def test_a_full_disk_says_so_and_keeps_what_was_counted(tmp_path):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        ledger.add(entry("a"))
        ledger._file = Full(ledger._file)
        with pytest.raises(InputError, match=r"No space left.*free the disk or choose.*counted images are kept"):
            ledger.add(entry("b"))
    assert list(read_ledger(tmp_path, HEADER)) == ["a"]


def test_lines_are_in_the_file_at_once_and_flushed_together(tmp_path, monkeypatch):
    flushed, now = [], [100.0]
    monkeypatch.setattr(os, "fsync", flushed.append)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        for name in "abc":
            ledger.add(entry(name))
            assert name in read_ledger(tmp_path, HEADER)
        assert len(flushed) == 1  # the header
        now[0] += 1.1
        ledger.add(entry("d"))
        ledger.add(entry("e"))
        assert len(flushed) == 2
    assert len(flushed) == 3


def test_an_entry_is_read_when_it_is_asked_for_and_never_another_one(tmp_path):
    path = fill(tmp_path, "a", "b")
    read = read_ledger(tmp_path, HEADER)
    assert "b" in read and len(read) == 2 and [*read.chosen(["b", "none"])] == ["b"]
    damage(path, 2, b'"b"', b'"x"')
    assert read["a"].counts.pixels.tolist() == [1, 7]
    with pytest.raises(InputError, match=r"the ledger was changed while it was read .*part-0.jsonl"):
        read["b"]
    path.unlink()
    with pytest.raises(InputError, match="cannot read the ledger: No such file"):
        read["a"]


def test_counts_of_different_lengths_are_refused(tmp_path):
    with LedgerWriter(tmp_path, "0", HEADER) as ledger:
        ledger.add(Entry("a", PixelCounts(*(np.array(v) for v in ([0, 1], [0], [1, 7]))), None, {}))
    with pytest.raises(InputError, match="malformed ledger: ValueError: counts of different lengths"):
        read_ledger(tmp_path, HEADER)


def test_only_a_full_disk_is_to_be_freed(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write the ledger: [\w ]+ \(.*\); choose another --out"):
        LedgerWriter(tmp_path / "runs" / "ledger", "one", HEADER)
