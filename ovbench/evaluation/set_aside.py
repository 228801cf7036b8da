"""Move an earlier ledger and its records to a folder that is never read."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ovbench.evaluation.ledger import LOCK, ledger_parts, lock_part
from ovbench.utils.errors import InputError
from ovbench.utils.folders import is_remote


def set_aside(folder: Path, records: list[Path], target: Path, prefix: str = "") -> Path | None:
    """Move a ledger's parts, the other files of its folder, and its records.

    They keep their relative positions, so that a record still has its ledger beside it.

    Args:
        folder: The ledger.
        records: Its records.
        target: Folder that receives them.
        prefix: Move only parts whose names begin with this.

    Returns:
        ``target``, None if there was nothing to move.

    Raises:
        InputError: If a process is writing to one of the parts, and nothing is moved; or files cannot be moved.
    """
    if is_remote(folder):
        raise InputError("--fresh needs a folder of this machine", where=str(folder), fix="choose another --out")
    parts = ledger_parts(folder, f"{prefix}*")
    files = [p for p in folder.glob("*") if p.is_file() and p.suffix != LOCK]
    rest = [p for p in files if p not in parts] if not prefix else []
    if prefix:
        rest = sorted(folder.glob(f"shard-{prefix.removeprefix('shard').rstrip('-')}.json"))
    if not parts and not rest:
        return None
    with ExitStack() as stack:
        try:
            for part in parts:
                stack.callback(lock_part(part).release)
            moved = target / folder.name
            moved.mkdir(parents=True)
            for path in (*parts, *rest):
                path.rename(moved / path.name)
            for path in records:
                path.rename(target / path.name)
        except OSError as error:
            what = f"cannot move the earlier ledger: {error.strerror}"
            raise InputError(what, where=str(folder), fix="choose another --out") from error
    return target
