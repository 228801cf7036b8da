"""Read tensors from files of published weights, without running code of a file."""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import pickle
import struct
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from ovbench.backbones.names import preference
from ovbench.backbones.torchscript import is_torchscript, read_archive
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import parse_json

CHUNK = 1 << 20
# keys of the tensors in checkpoints, in order of preference: a teacher or an average before the student
WRAPPERS = (
    "teacher", "state_dict_ema", "model_ema", "ema", "state_dict", "model", "model_state_dict", "module", "student",
)  # fmt: skip
INERT = ("_orig_mod.",)  # torch.compile puts it also into the middle of names
CHECKSUM = "sha256"  # in the metadata of our own files

log = logging.getLogger("ovbench")


def file_sha256(path: Path) -> str:
    """Return the sha256 of the bytes of a file, or of the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_tensors(path: Path, wrappers: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """Read the state dict in a safetensors file, a torch file or a TorchScript archive (OpenAI's CLIP).

    No code of a file runs: torch files are read with ``weights_only``, and archives by `read_archive`. Nested
    checkpoints ("state_dict", "teacher", "model" and others) are unwrapped; prefixes of wrappers (``module.``,
    ``_orig_mod.``) are removed.

    Args:
        path: The file.
        wrappers: Keys of the tensors in nested checkpoints, in order of preference.

    Raises:
        InputError: If the file is missing or damaged, or has no tensors.
    """
    if not path.is_file():
        raise InputError(f'no weights file "{path}"', fix="check the path")
    if path.suffix == ".safetensors":
        state = _safetensors(path)
    else:
        state = read_archive(path) if is_torchscript(path) else _torch(path, wrappers)
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f'"{path}" has no tensors', fix="give a file with a state dict")
    for mark in INERT:
        tensors = {key.replace(mark, ""): value for key, value in tensors.items()}
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _torch(path: Path, wrappers: Sequence[str]) -> dict[str, Any]:
    try:
        with _allowing_plain_data():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f'"{path}" contains more than tensors and was not opened ({_refused(path) or first_line(error)})',
            fix="save its state dict alone, best as safetensors",
        ) from None
    except (
        RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError,
        struct.error, AssertionError, MemoryError,
    ) as error:  # fmt: skip
        raise _damaged(path, error) from None
    while isinstance(state, dict):
        held = [key for key in wrappers if _has_tensors(state.get(key))]
        if not held:
            return state
        if len(held) > 1:
            log.warning('"%s": the tensors under "%s" are used, not those under "%s"', path.name, *held[:2])
        state = state[held[0]]
    return {}


def _has_tensors(value: object) -> bool:
    """Return whether a part of a checkpoint is a table with tensors, and not one of settings."""
    return isinstance(value, dict) and any(isinstance(one, Tensor) or _has_tensors(one) for one in value.values())


def _allowing_plain_data() -> AbstractContextManager:
    """Let ``weights_only`` accept plain data in checkpoints: an ``argparse.Namespace`` and NumPy numbers."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        return nullcontext()
    scalar = np.float64(0).__reduce__()[0]  # has moved between versions of NumPy
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")]
    plain = [argparse.Namespace, np.dtype, *kinds, scalar, (scalar, "numpy.core.multiarray.scalar")]
    return torch.serialization.safe_globals(plain)


def _refused(path: Path) -> str:
    """Return the objects in a torch file that are not plain data; "" if torch cannot list them."""
    try:
        with _allowing_plain_data():
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an old format or a damaged file: the caller already has an error to show
        return ""
    return "an object of " + ", ".join(sorted(names)[:3]) if names else ""


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f'cannot read the weights "{path}": {first_line(error)}', fix="copy or download the file again")


def without_prefix(state: dict[str, Tensor], want: Collection[str], path: Path) -> dict[str, Tensor]:
    """Return the tensors of one network of a checkpoint, without the prefix of their names.

    A teacher or an average is preferred to a student. The state is returned unchanged if no prefix fits better.

    Args:
        state: Tensors by name, such as "student.backbone.norm.weight".
        want: The names of the network.
        path: The file, for messages.
    """
    known = set(want)
    plain = sum(key in known for key in state)
    if plain == len(known):
        return state
    probe = max(known, key=len)
    prefixes = {key.removesuffix(probe) for key in state if key.endswith(f".{probe}")}
    held = {p: sum(key.startswith(p) and key[len(p) :] in known for key in state) for p in prefixes}
    if not held or max(held.values()) <= plain:
        return state
    best = max(held, key=lambda p: (held[p], *preference(p)))
    others = sum(not key.startswith(best) for key in state)
    equal = [prefix for prefix in held if prefix != best and held[prefix] == held[best]]
    level = logging.WARNING if equal else logging.INFO
    log.log(level, '"%s": tensors under "%s" are used, %d others are not', path.name, best, others)
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}


def tensor_hash(model: nn.Module) -> str:
    """Return the sha256 over names, shapes and values of the tensors of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fill(model: nn.Module, state: dict[str, Tensor], *, name: str, path: Path, fix: str) -> None:
    """Load a state dict strictly.

    Args:
        model: The network to fill.
        state: Its tensors.
        name: The architecture, for messages.
        path: The file, for messages.
        fix: What the user can do if they do not fit.

    Raises:
        InputError: With the first tensor that differs.
    """
    want = model.state_dict()
    state = without_prefix(state, want, path)
    different = [key for key in want if key in state and state[key].shape != want[key].shape]
    absent = [key for key in want if key not in state]
    surplus = [key for key in state if key not in want]
    if different:
        key = different[0]
        problem = f"{key} is {_shape(state[key])}, expected {_shape(want[key])}"
    elif absent:
        held = f"; it has {surplus[0]}" if surplus else ""
        problem = f"{len(absent)} of {len(want)} tensors are missing, first {absent[0]}{held}"
    elif surplus:
        problem = f"it has {len(surplus)} tensors too many, first {surplus[0]}"
    else:
        _refuse_other_values(state, want, path)
        model.load_state_dict(state)
        return
    raise InputError(f'"{path}" does not fit {name}: {problem}', fix=fix)


def _refuse_other_values(state: dict[str, Tensor], want: dict[str, Tensor], path: Path) -> None:
    """Refuse whole numbers, as of a quantised network, and values such as NaN."""
    for key, wanted in want.items():
        given, text = state[key], ""
        if given.is_floating_point() != wanted.is_floating_point():
            text = f"values of {given.dtype}, expected {wanted.dtype}"
        elif given.is_floating_point() and not given.isfinite().all():
            text = "values that are not finite"
        if text:
            raise InputError(f'{key} of "{path}" has {text}', fix="save the weights as floats, or copy the file again")


def keep_own_positions(model: nn.Module, name: str, table: Tensor | None, prefix: int, path: Path) -> None:
    """Give a tower the position table of a file that was trained on other sizes.

    The towers interpolate their table to every image. Interpolating it to the size of the named architecture first
    would only lose detail.

    Args:
        model: The tower.
        name: The attribute with its position table.
        table: The position table of the file, float (N, C) or (1, N, C), or None.
        prefix: Number of its rows that are not patches.
        path: The file, for messages.
    """
    old = getattr(model, name, None)
    if old is None or table is None or table.ndim != old.ndim or table.shape == old.shape:
        return
    cells = table.shape[-2] - prefix
    side = math.isqrt(max(cells, 0))
    if table.shape[-1] == old.shape[-1] and side and side * side == cells:
        log.info('"%s" was trained on %d x %d patches; its own table of positions is kept', path.name, side, side)
        setattr(model, name, nn.Parameter(torch.empty_like(table, dtype=old.dtype)))


def pack_tensor(tensor: Tensor) -> bytes:
    """Return a tensor as the bytes of a safetensors file with its checksum."""
    tensor = tensor.contiguous()
    return save({"tensor": tensor}, {CHECKSUM: tensor_sha256(tensor)})


def unpack_tensor(data: bytes) -> Tensor:
    """Return the tensor that `pack_tensor` wrote.

    Raises:
        ValueError: If values, shape or dtype have changed.
    """
    try:
        tensor = load(data)["tensor"]
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        written = header["__metadata__"][CHECKSUM]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"no tensor with a checksum ({first_line(error)})") from None
    if tensor_sha256(tensor) != written:
        raise ValueError("the checksum does not match")
    return tensor


def tensor_sha256(tensor: Tensor) -> str:
    """Return the sha256 over shape, dtype and values of a tensor."""
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
