"""`quick(n)` leaves n members of a parametrised test quick, from its whole list."""

from types import SimpleNamespace

import pytest
from conftest import pytest_collection_modifyitems


@pytest.mark.parametrize(("count", "n", "expected"), [(10, 2, [0, 5]), (3, 1, [0]), (7, 3, [0, 2, 4]), (2, 4, [0, 1])])
def test_n_members_stay_quick(count, n, expected):
    slow = []

    def member(name, number, mark):
        return SimpleNamespace(
            path="a.py",
            originalname=name,
            get_closest_marker={"quick": mark}.get,
            add_marker=lambda marker: slow.append((name, number, marker)),
        )

    mark = pytest.mark.quick(n).mark
    items = [member(name, i, mark) for i in range(count) for name in ("test_a", "test_b")] + [member("test_c", 0, None)]
    pytest_collection_modifyitems(items)
    for name in ("test_a", "test_b"):
        assert [i for i in range(count) if (name, i, "slow") not in slow] == expected
    assert not [one for one in slow if one[0] == "test_c"]
