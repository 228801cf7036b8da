"""Unmodified segmentors of mmsegmentation, called through their own ``predict``, each in its own process.

Such a class has its own windows, text encoder and decision. ovbench resizes the image by the protocol, passes BGR
values and the metadata of a test pipeline (without a path, so that no label can be found), and counts its
``pred_sem_seg``. The arguments of its constructor are its settings. ``{classes}`` in an argument is replaced by the
path of a file with the class names of the dataset: one class per line, synonyms separated by ", ". This is the
default of an argument ``name_path``. The process (`ovbench.integrations.third_party_worker`) keeps the modules of two
repositories apart.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ovbench.backbones.build import Loaded
from ovbench.config.load import Cell
from ovbench.inference.batching import Prediction, attempt
from ovbench.inference.pipeline import Classes, named_classes
from ovbench.methods.base import Method, Needs
from ovbench.methods.method_errors import CannotBuild, MethodError
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.images import resize_image, resized_size
from ovbench.utils.registry import METHODS

TYPES = {"bool": bool, "int": int, "float": float, "str": str, "str | None": str | None}
RESTARTS = 3  # of a process that crashes while it labels


class Crashed(Exception):
    """The end of the process, with its reason as text."""


class Failed(Exception):
    """An exception in the segmentor's code as text; ``where`` is its file and line."""

    def __init__(self, what: str, where: str | None):
        super().__init__(what)
        self.where = where


class WorkerProcess:
    """A process of `ovbench.integrations.third_party_worker` and the connection to it.

    Args:
        name: ``FILE.py:Class`` or ``module:Class``.
        visible: The value of CUDA_VISIBLE_DEVICES for the process, None for the value of this process.
    """

    def __init__(self, name: str, visible: str | None = None):
        self.visible = visible
        here, there = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))))
        if visible is not None:
            env["CUDA_VISIBLE_DEVICES"] = visible
        env["PYTHONSAFEPATH"] = "1"  # no module of the current folder may hide a standard one
        with there:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ovbench.integrations.third_party_worker", str(there.fileno())],
                stdin=subprocess.PIPE, stdout=2, pass_fds=[there.fileno()], env=env,
            )  # fmt: skip
        self.connection = Connection(here.detach())
        self.close = weakref.finalize(self, _end, self.connection, self.process)
        self._send({"name": name, "path": sys.path})

    def ask(self, what: str, payload: bytes = b"", **request: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        Args:
            what: "describe", "build" or "label".
            payload: Bytes sent after the request.
            **request: Further entries of the request, JSON values.

        Raises:
            Failed: If the segmentor's code raised an exception.
            Crashed: If the process ended.
        """
        self._send({"do": what, **request}, payload)
        answer = json.loads(self.receive())
        if "error" in answer:
            raise Failed(answer["error"], answer["where"])
        return answer

    def receive(self) -> bytes:
        """Return the next bytes that the process sends.

        Raises:
            Crashed: If the process ended.
        """
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            raise Crashed(self._exit_reason()) from None

    def _send(self, request: dict[str, Any], payload: bytes = b"") -> None:
        try:
            self.connection.send_bytes(json.dumps(request).encode())
            if payload:
                self.connection.send_bytes(payload)
        except OSError:
            raise Crashed(self._exit_reason()) from None

    def _exit_reason(self) -> str:
        self.close()
        code = self.process.returncode
        if code >= 0:
            return f"its process ended with exit code {code}"
        hint = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{hint}"


def _end(connection: Connection, process: subprocess.Popen) -> None:
    """Close the connection, on which a worker ends; kill it after five seconds."""
    connection.close()
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class ThirdPartyMethod(Method):
    """The settings of a class of mmsegmentation, used like a method; it needs no backbones."""

    needs = Needs(backbones=())
    pipeline = "ovbench.integrations.third_party:ThirdPartyPipeline"
    target: ClassVar[str]
    idle: ClassVar[WorkerProcess | None] = None  # has imported the class to describe it, and built no model

    @classmethod
    def worker(cls, visible: str | None) -> WorkerProcess:
        """Return a process that has imported the class: the idle one if its GPU fits, otherwise a new one.

        Args:
            visible: The value of CUDA_VISIBLE_DEVICES for the process, None for the value of this process.
        """
        process, cls.idle = cls.idle, None
        if process is not None and process.visible == visible:
            return process
        process = WorkerProcess(cls.target, visible)
        process.ask("describe")
        return process


def describe(name: str) -> type[ThirdPartyMethod] | None:
    """Return the method class for a class of mmsegmentation, or None if the name is a subclass of `Method`.

    Args:
        name: ``FILE.py:Class`` or ``module:Class``.

    Raises:
        InputError: If the module cannot be imported or does not have the class.
        UsageError: If the class is neither a method nor a segmentor.
    """
    module, _, attribute = name.rpartition(":")
    process = WorkerProcess(name)
    try:
        found = process.ask("describe")
    except Failed as error:
        where = error.where or module
        raise InputError(f'cannot import "{module}": {error}', where=where, fix="see docs/add-method.md") from None
    except Crashed as error:
        raise InputError(f'cannot import "{module}": {error}', where=module) from None
    if found["type"] == "segmentor":
        fields = [(key, TYPES[type_], dataclasses.field(default=value)) for key, type_, value in found["settings"]]
        params = dataclasses.make_dataclass(f"{found['class']}Params", fields, frozen=True)
        own = {"target": name, "idle": process, "Params": params, "__doc__": found["doc"]}
        return type(found["class"], (ThirdPartyMethod,), own)
    process.close()
    if found["type"] == "none":
        classes = ", ".join(found["classes"]) or "no class"
        raise InputError(f'no "{attribute}" in it', where=module, fix=f"it defines {classes}")
    if found["type"] == "other":
        fix = "give a subclass of ovbench.methods.base.Method or of mmseg's BaseSegmentor"
        raise UsageError(f'"{name}" is not a method', fix=fix)
    return None


def visible_devices(device: str) -> str | None:
    """Return CUDA_VISIBLE_DEVICES for a process that may only use ``device``; None keeps the present value."""
    if not torch.cuda.is_available():
        return None
    wanted = torch.device(device)
    if wanted.type != "cuda":
        return ""
    own = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    number = wanted.index or 0
    return own[number] if number < len(own) else str(number)


class ThirdPartyModel(Method):
    """The model in the worker process, used like a method."""

    needs = Needs(backbones=())


class WorkerPredictor:
    """A predictor that labels images in a worker process, with one model per vocabulary.

    The process starts at the first image, so that the models are built on the device where they run.
    """

    def __init__(self, cell: Cell, entry: type[ThirdPartyMethod]):
        self.cell, self.entry, self.protocol = cell, entry, cell.protocol
        self.method = ThirdPartyModel(None)
        self.device, self.vocabularies, self.seconds = "cpu", [], {}
        self.process: WorkerProcess | None = None
        self.crashes: list[str] = []

    def add_vocabulary(self, classes: Sequence[Sequence[str]]) -> None:
        """Add a vocabulary, one list of synonyms per class; each one needs its own model."""
        self.vocabularies.append([list(names) for names in classes])
        self.close()

    def move(self, device: str) -> None:
        """Set the device of the models."""
        if str(device) != self.device:
            self.device = str(device)
            self.close()

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def start(self) -> dict[str, Any]:
        """Build the models; return the hashes of the first model's tensors and of the repository's code.

        Raises:
            CannotBuild: If the constructor failed or crashed, with its message.
        """
        name = self.entry.__name__
        while True:
            try:
                self.process = self.entry.worker(visible_devices(self.device))
                answers = [self._build(classes) for classes in self.vocabularies]
            except (Failed, Crashed) as error:
                self.close()
                where = getattr(error, "where", None)
                fix = "give its arguments with --set NAME=VALUE, or another --device"
                raise CannotBuild(f"{name} cannot be built: {error}", where=where, fix=fix) from None
            if not any(answer.get("stale") for answer in answers):
                return answers[0]
            self.close()  # its files were edited since: import them again

    def _build(self, classes: list[list[str]]) -> dict[str, Any]:
        settings = dataclasses.asdict(self.cell.params)
        device = "cuda:0" if torch.device(self.device).type == "cuda" else self.device
        return self.process.ask(
            "build", settings=settings, classes=classes, device=device, threads=torch.get_num_threads()
        )

    def batcher(self, size: int = 0) -> WorkerPredictor:
        """Return this object: such a class labels one image at a time."""
        return self

    def add(self, number: int, image: np.ndarray, regions: np.ndarray | None = None) -> Iterator[Prediction]:
        """Yield the prediction of an image; see `WindowBatcher.add`."""
        self.seconds = seconds = {}
        yield attempt(number, lambda: self.label(image), seconds, self.method)

    def flush(self) -> Iterator[Prediction]:
        """Yield the predictions of pending images: none."""
        return iter(())

    def label(self, image: np.ndarray, regions: np.ndarray | None = None) -> list[np.ndarray]:
        """Label an image.

        Args:
            image: uint8 (H, W, 3), RGB.
            regions: Not used.

        Returns:
            uint16 (H, W), one map per vocabulary.
        """
        size = resized_size(image.shape[:2], self.protocol.short_side, self.protocol.long_side)
        return self.label_resized(resize_image(image, size, self.protocol.resize), image.shape[:2])

    def label_resized(
        self, resized: np.ndarray, original: tuple[int, int], regions: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Label an image that is already resized.

        Args:
            resized: uint8 (h, w, 3), RGB.
            original: Size (H, W) before resizing.
            regions: Not used.

        Returns:
            uint16 (H, W), one map per vocabulary.

        Raises:
            MethodError: If the segmentor raised an exception, crashed, or returned labels that do not fit the dataset.
        """
        name = self.entry.__name__
        if self.process is None:
            if len(self.crashes) > RESTARTS:
                raise MethodError(f"{name} crashed {len(self.crashes)} times, the last time {self.crashes[-1]}")
            self.start()
        start = time.perf_counter()
        try:
            shape, pixels = list(resized.shape), np.ascontiguousarray(resized).tobytes()
            answer = self.process.ask("label", pixels, shape=shape, original=list(original))
            maps = np.frombuffer(self.process.receive(), "<i8")
        except Failed as error:
            raise MethodError(f"{name} failed: {error}", where=error.where) from None
        except Crashed as error:
            self.crashes.append(str(error))
            self.process = None
            raise MethodError(f"{name} crashed: {error}") from None
        for path in answer["opened"]:
            sys.audit("open", path, "r", 0)  # for an audit hook that watches the files that a method opens
        self.seconds["predict"] = time.perf_counter() - start
        counts = np.cumsum([int(np.prod(shape)) for shape in answer["shapes"]])
        pieces = zip(np.split(maps, counts[:-1]), answer["shapes"], self.vocabularies, strict=True)
        return [self._checked(piece.reshape(shape), original, len(classes)) for piece, shape, classes in pieces]

    def _checked(self, labels: np.ndarray, original: tuple[int, int], classes: int) -> np.ndarray:
        name = self.entry.__name__
        if labels.shape != tuple(original):
            raise MethodError(f"{name} returned labels of shape {labels.shape} for an image of {tuple(original)}")
        if labels.min() < 0 or labels.max() >= classes:
            raise MethodError(f"{name} returned labels {labels.min()}..{labels.max()} for {classes} classes")
        return labels.astype(np.uint16)


class ThirdPartyPipeline:
    """A class of mmsegmentation with the interface of `Pipeline`."""

    region_maps = None

    def __init__(
        self, cell: Cell, classes: Classes | None = None, background: int | None = None, device: str = "cpu"
    ):  # fmt: skip
        self.cell = cell
        self.predictor = WorkerPredictor(cell, METHODS.load(cell.method))
        self.method = self.predictor.method
        self._loaded: dict[str, Loaded] = {}
        self.to(device)
        self.add_vocabulary(cell, *named_classes(cell, classes, background))

    @property
    def loaded(self) -> dict[str, Loaded]:
        """Return the hashes of the model's tensors and of the repository's code; build the model if necessary."""
        if not self._loaded or self.predictor.process is None:
            made = self.predictor.start()
            self._loaded = {key: Loaded(self.method, self.cell.method, made[key]) for key in ("model", "code")}
        return self._loaded

    def add_vocabulary(self, cell: Cell, classes: Classes, background: int | None) -> None:
        """Add a model, because such a class has its own class names."""
        self.predictor.add_vocabulary(classes)
        self._loaded = {}

    def set_vocabulary(self, classes: Classes, background: int | None = None) -> None:
        """Replace all models by one with these class names."""
        self.predictor.vocabularies.clear()
        self.add_vocabulary(self.cell, classes, background)

    def to(self, device: str) -> ThirdPartyPipeline:
        """Choose the device on which the models are built."""
        self.predictor.move(device)
        return self

    def regions(self, image: np.ndarray, path: Path | None = None) -> None:
        """Return None, because such a class gets no region maps."""

    def label(self, image: np.ndarray, path: Path | None = None) -> np.ndarray:
        """Return the labels of an image uint8 (H, W, 3), uint16 (H, W), by the first vocabulary."""
        return self.predictor.label(image)[0]
