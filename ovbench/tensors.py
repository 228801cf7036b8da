"""Tensors from the files in which weights are published, without ever running a pickle's code."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ovbench.errors import InputError, first_line

CHUNK = 1 << 20
WRAPPERS = ("state_dict", "model", "teacher")  # keys under which checkpoints keep their tensors, in order of preference


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes; of a folder, over the names and contents of its files."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, a TorchScript archive (as OpenAI publishes CLIP), or a torch file.

    A torch file is read with ``weights_only``; nested checkpoints ("state_dict", "model", "teacher") are unwrapped and
    the prefix ``module.`` dropped. InputError for a missing, damaged or other file.
    """
    if not path.is_file():
        raise InputError(f'no weights file "{path}"', fix="check the path")
    if path.suffix == ".safetensors":
        state = _safetensors(path)
    else:
        state = _torchscript(path) if _is_torchscript(path) else _torch(path)
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f'"{path}" holds no tensors', fix="give a file with a state dict")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


def _torchscript(path: Path) -> dict[str, Tensor]:
    try:
        return torch.jit.load(path, map_location="cpu").state_dict()
    except RuntimeError as error:
        raise _damaged(path, error) from None


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f'"{path}" holds more than tensors and was not opened ({first_line(error)})',
            fix="save its state dict alone, best as safetensors",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return state if isinstance(state, dict) else {}


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f'cannot read the weights "{path}": {first_line(error)}', fix="copy or download the file again")


def fill(model: nn.Module, state: dict[str, Tensor], *, name: str, path: Path, fix: str) -> None:
    """Load a state dict strictly. Where it does not fit, InputError with the first tensor that differs."""
    want = model.state_dict()
    different = [key for key in want if key in state and state[key].shape != want[key].shape]
    absent = [key for key in want if key not in state]
    surplus = [key for key in state if key not in want]
    if different:
        key = different[0]
        problem = f"{key} is {_shape(state[key])}, expected {_shape(want[key])}"
    elif absent:
        problem = f"{len(absent)} of {len(want)} tensors are missing, first {absent[0]}"
    elif surplus:
        problem = f"it has {len(surplus)} tensors too many, first {surplus[0]}"
    else:
        model.load_state_dict(state)
        return
    raise InputError(f'"{path}" does not fit {name}: {problem}', fix=fix)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
