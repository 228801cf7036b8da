"""The ledger survives torn lines, refuses strangers, and belongs to one process at a time."""

import numpy as np
import pytest

from ovbench.engine.ledger import Entry, LedgerPart, read_ledger
from ovbench.errors import InputError
from ovbench.metrics.counts import PixelCounts

HEADER = {"cell": {"method": "clip", "tau": 0.25}, "weights": "abc"}


def entry(name, n=1):
    return Entry(name, PixelCounts(*(np.array(v) for v in ([0, 1], [0, 2], [n, 7]))), None, {"read": 0.25})


def fill(folder, *names, part="0"):
    with LedgerPart(folder, part, HEADER) as ledger:
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


def test_a_damaged_byte_hides_what_follows_and_no_more(tmp_path):
    path = fill(tmp_path, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"b"', b'"x"')
    path.write_bytes(b"".join(lines))
    assert list(read_ledger(tmp_path, HEADER)) == ["a"]


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
    with pytest.raises(InputError, match='"weights" is "abc" there and "xyz" now'):
        read_ledger(tmp_path, HEADER | {"weights": "xyz"})


def test_two_processes_cannot_write_one_part(tmp_path):
    with (
        LedgerPart(tmp_path, "0", HEADER),
        pytest.raises(InputError, match="another process is running this cell"),
        LedgerPart(tmp_path, "0", HEADER),
    ):
        pass
    fill(tmp_path, "a")  # the lock went with its holder


def test_a_count_replaces_an_earlier_failure_and_is_never_doubled(tmp_path):
    with LedgerPart(tmp_path, "0", HEADER) as ledger:
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

    with LedgerPart(tmp_path, "0", HEADER) as ledger:
        ledger.add(entry("a"))
        ledger._file = Full(ledger._file)
        with pytest.raises(InputError, match=r"cannot write the ledger: No space left.*what was counted is kept"):
            ledger.add(entry("b"))
    assert list(read_ledger(tmp_path, HEADER)) == ["a"]
