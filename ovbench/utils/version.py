"""The version of this code; two different states never have the same one."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CODE = ("ovbench", "configs", "datasets")


@functools.cache
def package_version() -> str:
    """Return the version of the checkout that the code runs from, otherwise of the installed package.

    The metadata of an editable installation may be outdated, so git is asked in a checkout. The form is the one of the
    build: ``0.2.0`` at a tag, ``0.2.0.post1.dev3+g0123456789`` three commits later, and with local
    changes a hash of them: ``...+g0123456789.m89abcdef``.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        if (root / ".git").exists():
            return _from_git(root)
    except (OSError, subprocess.CalledProcessError):
        pass  # no git here
    try:
        return version("ovbench")
    except PackageNotFoundError:
        return "0.0"


def _from_git(root: Path) -> str:
    commit, changes = _git(root, "rev-parse", "HEAD"), _changes(root)
    try:
        tag, distance, _ = _git(root, "describe", "--tags", "--long", "--match=v[0-9]*").rsplit("-", 2)
    except subprocess.CalledProcessError:  # no tag yet
        tag, distance = "v0.0", _git(root, "rev-list", "--count", "HEAD")
    if distance == "0" and not changes:
        return tag.removeprefix("v")
    return f"{tag.removeprefix('v')}.post1.dev{distance}+g{commit[:9]}{'.m' + changes if changes else ''}"


def _changes(root: Path) -> str:
    """Return a hash of all changes since the commit and of new files beside the code; "" if there are none."""
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split("\0")
    found = [
        os.fsencode(_git(root, "diff", "HEAD", "--binary")),
        *(os.fsencode(name) + (root / name).read_bytes() for name in new if name),
    ]
    return hashlib.sha256(b"\0".join(found)).hexdigest()[:8] if any(found) else ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, encoding="utf-8", errors="surrogateescape"
    )
    return done.stdout.strip()
