"""Running the command as a user does, in this process."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def ovbench(capsys, monkeypatch):
    """``ovbench("list", "methods")`` runs the command: its exit code, stdout, stderr, and stdout read as JSON."""
    from ovbench.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ovbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(
            code=stopped.value.code, out=printed.out, err=printed.err, json=lambda: json.loads(printed.out)
        )

    return run
