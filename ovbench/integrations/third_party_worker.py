"""The process of a third-party segmentor: it shares no modules, registry or GPU memory with other methods.

`ovbench.integrations.third_party` starts it with ``python -m``. Requests and answers are JSON objects over a socket;
images and label maps follow as bytes. Modules are searched first in the repository's folder, as if its own script had
been started. So before the repository is imported, nothing here may import a package that a repository may bring in its
own version (CLIP, open_clip, timm). The process ends when its standard input is closed, together with its parent.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from ovbench.utils.errors import OvbenchError, UsageError, first_line, is_own, line_below

CLASSES = "{classes}"
NOT_SETTINGS = ("self", "device", "data_preprocessor", "init_cfg")
PLAIN_TYPES = (bool, int, float, str)
INSTALLED = ("site-packages", "dist-packages")


class Repository:
    """The code of a segmentor, ``FILE.py:Class`` or ``module:Class``."""

    def __init__(self, name: str):
        self.module_name, _, self.attribute = name.rpartition(":")
        self.file = Path(self.module_name).expanduser().resolve() if self.module_name.endswith(".py") else None
        self.folder = self.file.parent if self.file else _folder_of(self.module_name.partition(".")[0])

    def module(self) -> ModuleType:
        """Import the module; modules of the repository go before installed ones of the same name."""
        if self.file is None:
            return importlib.import_module(self.module_name)
        package = self.file.parent
        while (package / "__init__.py").is_file():
            package = package.parent
        self.folder = package
        sys.path[:0] = list(dict.fromkeys((str(self.file.parent), str(package))))
        if package != self.file.parent:  # relative imports need the package
            return importlib.import_module(".".join(self.file.relative_to(package).with_suffix("").parts))
        name = self.file.stem if self.file.stem not in sys.modules else f"{self.file.stem}_of_{package.name}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def code(self) -> dict[str, str]:
        """Return the sha256 of every imported file below the repository's folder, by relative path."""
        files = {}
        for module in list(sys.modules.values()):
            path = Path(getattr(module, "__file__", None) or "")
            if is_own(path, self.folder) and path.is_file():
                relative = path.relative_to(self.folder).as_posix()
                files[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
        return dict(sorted(files.items()))


def _folder_of(top: str) -> Path:
    """Return the folder of an installed package, or the folder that holds the top-level module."""
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return Path.cwd()
    file = Path(spec.origin).resolve()
    if file.name != "__init__.py":
        return file.parent
    return file.parent if file.parent.parent.name in INSTALLED else file.parent.parent


class Worker:
    """A server of requests about one segmentor."""

    def __init__(self, name: str):
        self.repository = Repository(name)
        self.models: list[Any] = []
        self.classes: list[int] = []
        self.opened: list[str] = []
        self.described: dict[str, str] = {}
        self.segmentor: type | None = None

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the class; return its type ("segmentor", "method", "other", "none") and its settings."""
        _quiet()
        module = self.repository.module()
        found = getattr(module, self.repository.attribute, None)
        if found is None:
            found = _registered(self.repository.attribute)
        if found is None:
            own = (n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__)
            return {"type": "none", "classes": sorted(own)}
        self.described = self.repository.code()
        if _is_method(found):
            return {"type": "method"}
        import torch

        if not (isinstance(found, type) and issubclass(found, torch.nn.Module) and hasattr(found, "predict")):
            return {"type": "other"}
        self.segmentor = found
        return {"type": "segmentor", "class": found.__name__, "doc": found.__doc__, "settings": _settings(found)}

    def build(self, request: dict[str, Any]) -> dict[str, Any]:
        """Build a model.

        Args:
            request: "settings", "classes" (synonyms per class), "device" and "threads".

        Returns:
            The hashes of its tensors and of the code; only {"stale": True} if a file changed after the import.
        """
        import torch

        from ovbench.backbones.checkpoint import tensor_hash
        from ovbench.inference.precision import refuse_tf32

        if self.described.items() - self.repository.code().items():
            return {"stale": True}  # a file was edited since it was imported
        refuse_tf32()
        torch.set_num_threads(request["threads"])
        device = torch.device(request["device"])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "classes.txt"
            file.write_text("\n".join(", ".join(names) for names in request["classes"]) + "\n", encoding="utf-8")
            given = {
                key: value.replace(CLASSES, str(file)) if isinstance(value, str) else value
                for key, value in request["settings"].items()
            }
            if "device" in inspect.signature(self.segmentor.__init__).parameters:
                given["device"] = device
            model = self.segmentor(**given).eval()
        sha256 = tensor_hash(model)
        move(model, device, self.repository.folder)
        self.models.append(model)
        self.classes.append(len(request["classes"]))
        code = self.repository.code()
        listed = "".join(f"{name} {digest}\n" for name, digest in code.items())
        return {"model": sha256, "code": hashlib.sha256(listed.encode()).hexdigest(), "files": code}

    def label(self, request: dict[str, Any], image: bytes) -> tuple[dict[str, Any], bytes]:
        """Label a resized image with every model.

        Args:
            request: "shape" of the image and its size "original" before resizing.
            image: uint8 (h, w, 3), RGB, as bytes.

        Returns:
            The shapes of the maps with the files that were opened; and the maps as int64 bytes, one after another.
        """
        import numpy as np

        resized = np.frombuffer(image, np.uint8).reshape(request["shape"])
        self.opened.clear()
        maps = [self._label(model, resized, tuple(request["original"])) for model in self.models]
        answer = {"shapes": [one.shape for one in maps], "opened": list(dict.fromkeys(self.opened))}
        return answer, b"".join(one.tobytes() for one in maps)

    def _label(self, model: Any, resized: Any, original: tuple[int, int]) -> Any:
        import numpy as np
        import torch
        from mmseg.structures import SegDataSample

        h, w = resized.shape[:2]
        meta = {
            "img_path": "", "ori_shape": original, "img_shape": (h, w), "pad_shape": (h, w),
            "scale_factor": (w / original[1], h / original[0]), "flip": False, "flip_direction": None,
        }  # fmt: skip
        bgr = torch.from_numpy(np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1)))
        with torch.inference_mode():
            samples = model.test_step({"inputs": [bgr], "data_samples": [SegDataSample(metainfo=meta)]})
        labels = samples[0].pred_sem_seg.data.squeeze(0).cpu()
        if labels.is_floating_point() or labels.is_complex():
            raise UsageError(f"pred_sem_seg is of {labels.dtype}, expected whole numbers")
        return labels.numpy().astype("<i8")

    def note_open(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a file that Python opens; an audit hook."""
        if event == "open" and isinstance(arguments[0], str):
            self.opened.append(arguments[0])


def _quiet() -> None:
    """Prepare mmengine and mmseg for import, and lower their log level."""
    from ovbench.integrations.mmcv_ops import provide_mmcv_ops, provide_pkg_resources

    provide_pkg_resources()
    provide_mmcv_ops()
    warnings.simplefilter("ignore")
    for name in ("mmengine", "mmseg", "root"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _registered(name: str) -> Any:
    """Return the class that mmsegmentation has registered under a name, None if there is none."""
    if "mmseg" not in sys.modules:
        return None
    from mmseg.registry import MODELS

    return MODELS.get(name)


def _is_method(found: Any) -> bool:
    base = sys.modules.get("ovbench.methods.base")
    return base is not None and isinstance(found, type) and issubclass(found, base.Method)


def _settings(found: type) -> list[tuple[str, str, Any]]:
    """Return name, type and default of the constructor's plain arguments; one without a default is a string."""
    fields: list[tuple[str, str, Any]] = []
    for name, parameter in inspect.signature(found.__init__).parameters.items():
        if name in NOT_SETTINGS or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if default is parameter.empty:
            fields.append((name, "str", CLASSES if name == "name_path" else ""))
        elif default is None:
            fields.append((name, "str | None", None))
        elif isinstance(default, PLAIN_TYPES):
            fields.append((name, next(t.__name__ for t in PLAIN_TYPES if isinstance(default, t)), default))
    return fields


def move(model: Any, device: Any, folder: Path) -> None:
    """Move a model with all its tensors to a device.

    Tensors that are not buffers are moved too: attributes such as ``self.query_features``, and tensors and networks in
    lists, dictionaries and objects of the repository's own classes.

    Args:
        model: The module.
        device: The torch device.
        folder: The repository's folder.
    """
    import torch

    seen: set[int] = set()

    def moved(value: Any) -> Any:
        if isinstance(value, torch.nn.Parameter):  # moved by its module
            return value
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if type(value) in (list, dict) or isinstance(value, torch.nn.Module) or _is_below(type(value), folder):
            if id(value) not in seen:
                seen.add(id(value))
                walk(value)
        elif type(value) is tuple:
            return tuple(moved(item) for item in value)
        return value

    def walk(value: Any) -> None:
        if isinstance(value, torch.nn.Module):
            value.to(device)
            for module in value.modules():
                seen.add(id(module))
                replace(vars(module), skip=("_parameters", "_buffers", "_modules"))
        else:
            replace(value if isinstance(value, (list, dict)) else getattr(value, "__dict__", {}))

    def replace(held: Any, skip: tuple[str, ...] = ()) -> None:
        for key, value in list(held.items() if isinstance(held, dict) else enumerate(held)):
            if key not in skip and (new := moved(value)) is not value:
                held[key] = new

    walk(model)


def _is_below(class_: type, folder: Path) -> bool:
    file = getattr(sys.modules.get(class_.__module__), "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


def _failure(error: BaseException, folder: Path) -> dict[str, Any]:
    """Return an exception as data: its type and text, and the repository's file and line."""
    name, text = type(error).__name__, first_line(error)
    what = text if isinstance(error, OvbenchError) else f"{name}: {text}"
    return {"error": what, "where": line_below(error, folder)}


def _requests(connection: Connection) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    """Hide standard input from the repository's code, and end the process when the other end closes it."""
    held = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def wait() -> None:
        while os.read(held, 1):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Answer requests until the connection is closed."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    os.environ.pop("PYTHONSAFEPATH", None)
    connection = Connection(int(sys.argv[1]))
    start = json.loads(connection.recv_bytes())
    sys.path[:] = start["path"]
    worker = Worker(start["name"])
    sys.addaudithook(worker.note_open)
    for request in _requests(connection):
        payload = b""
        try:
            if request["do"] == "label":
                answer, payload = worker.label(request, connection.recv_bytes())
            else:
                answer = {"describe": worker.describe, "build": worker.build}[request["do"]](request)
        except (Exception, SystemExit) as error:
            if os.environ.get("OVBENCH_DEBUG"):
                sys.excepthook(type(error), error, error.__traceback__)
            answer = _failure(error, worker.repository.folder)
        connection.send_bytes(json.dumps(answer).encode())
        if payload:
            connection.send_bytes(payload)


if __name__ == "__main__":
    main()
