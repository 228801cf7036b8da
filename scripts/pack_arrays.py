"""Make the .npz files of parity cases smaller, with the same arrays: python scripts/pack_arrays.py FILE.npz ...

Each array is stored by the best of deflate, bzip2 and LZMA. NumPy reads all three.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

FORMS = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DATE = (1980, 1, 1, 0, 0, 0)  # the same file for the same arrays


def _packed(name: str, content: bytes, form: int) -> int:
    with zipfile.ZipFile(io.BytesIO(), "w", form, compresslevel=9) as archive:
        archive.writestr(name, content)
        return archive.infolist()[0].compress_size


def pack(path: Path) -> int:
    """Rewrite a file and return the bytes saved; a file that would not become smaller stays as it is."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compresslevel=9) as archive:
        for name, content in members.items():
            best = min(FORMS, key=lambda form: _packed(name, content, form))
            archive.writestr(zipfile.ZipInfo(name, DATE), content, best)
    saved = path.stat().st_size - len(made.getvalue())
    if saved > 0:
        path.write_bytes(made.getvalue())
    return max(saved, 0)


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        print(f"{file}: {pack(file)} bytes saved")
