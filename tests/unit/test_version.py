"""Two different states of the code never share one version."""

from __future__ import annotations

import subprocess
from importlib.metadata import version

import pytest

import ovbench
from ovbench.utils import version as module
from ovbench.utils.version import package_version


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with the module in it; ``git("tag", "v1.0")`` runs git there."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ovbench" / "utils").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "ovbench" / "utils" / "version.py"))

    def git(*arguments):
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def now():
        package_version.cache_clear()
        return package_version()

    yield tmp_path, git, now
    package_version.cache_clear()


@pytest.mark.slow
def test_every_state_of_a_checkout_has_its_own_version(checkout):
    root, git, now = checkout
    git("init", "-q")
    (root / "ovbench" / "a.py").write_text("1\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")[:9]
    seen = [now()]
    assert seen[0] == f"0.0.post1.dev1+g{commit}"
    git("tag", "v0.2.0")
    seen.append(now())
    assert seen[-1] == "0.2.0"
    for text in ("2\n", "3\n", "\udcff\n"):  # changed twice in one second, and bytes that are no text
        (root / "ovbench" / "a.py").write_bytes(text.encode(errors="surrogateescape"))
        seen.append(now())
        assert seen[-1].startswith(f"0.2.0.post1.dev0+g{commit}.m")
    (root / "ovbench" / "new.py").write_text("4\n")  # not known to git, yet imported
    seen.append(now())
    git("add", "-A")
    git("commit", "-qm", "two")
    seen.append(now())
    assert seen[-1] == f"0.2.0.post1.dev1+g{git('rev-parse', 'HEAD')[:9]}"
    assert len(set(seen)) == len(seen) == 7


def test_without_git_the_version_is_that_of_the_installed_package(checkout):
    *_, now = checkout
    assert now() == version("ovbench")


def test_the_version_is_a_lazy_attribute_and_an_unknown_one_is_refused():
    assert ovbench.__version__ == package_version() and "__version__" in dir(ovbench)
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        ovbench.versoin  # noqa: B018
