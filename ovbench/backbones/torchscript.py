"""Read the tensors of a TorchScript archive without running its code.

``torch.jit.load`` runs code of the archive. Here its pickle is read by an unpickler that accepts tensors and plain data
only; objects of the archive's own classes become plain attributes. Archives whose tensors only their code can name are
refused.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench.utils.errors import InputError, first_line

BIGGEST_PICKLE = 1 << 28  # bytes; the tensors are in other files


class Bag:
    """The attributes of an object of a class of the archive."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update({name: value for name, value in state.items() if isinstance(name, str)})


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):  # another format, or damaged
        return False


def read_archive(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an archive by their dotted names, on the CPU.

    Raises:
        InputError: If the file is damaged, or its tensors cannot be read without running its code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            main = next(name for name in archive.namelist() if name.count("/") <= 1 and name.endswith("data.pkl"))
            root = main.removesuffix("data.pkl")
            if archive.getinfo(main).file_size > BIGGEST_PICKLE:
                raise InputError(f'"{path}" has a list of tensors that is too large')
            with archive.open(main) as stream:
                tree = Reader(stream, archive, root).load()
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, StopIteration, KeyError, ValueError, TypeError, EOFError, OSError,
        AttributeError, IndexError, RuntimeError, NotImplementedError, UnicodeDecodeError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        raise InputError(
            f'cannot read the weights "{path}": {first_line(error)}',
            fix="copy or download the file again, or save its state dict as safetensors",
        ) from None
    found: dict[str, Tensor] = {}
    _collect(tree, "", found, set())
    if not found:
        raise InputError(
            f'"{path}" is a TorchScript program whose tensors only its own code can name; it is not run',
            fix="save its state dict as safetensors",
        )
    return found


def _collect(value: Any, name: str, found: dict[str, Tensor], above: set[int]) -> None:
    if isinstance(value, Tensor):
        found[name] = value
    elif isinstance(value, Bag) and id(value) not in above:
        for key, inner in vars(value).items():
            _collect(inner, f"{name}.{key}" if name else key, found, above | {id(value)})


class Reader(pickle.Unpickler):
    """An unpickler for ``data.pkl`` of an archive that calls only the functions listed here."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(stream)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the function for a name in the pickle, from a fixed list."""
        if module.startswith("__torch__"):
            return Bag
        if module == "torch" and name.endswith("Storage"):
            return name
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "tensor", "double", "bool")},
            ("torch", "device"): str,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not a tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a storage as a flat tensor."""
        _, kind, key, _, count = pid
        if key not in self.storages:
            dtype = DTYPES[kind]
            entry = self.archive.getinfo(f"{self.root}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"the tensor data {key} have a wrong size")
            data = bytearray(self.archive.read(entry))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self.storages[key]


DTYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    """Return a view of a storage; without the check, a small file could fill the memory."""
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than its data")
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()
