"""Where captions come from: files made elsewhere, a vision-language model, or a server that runs one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.training.caption_files import index_captions
from ovbench.training.chat import ChatClient
from ovbench.training.reference_set.parts import Picture
from ovbench.utils.errors import InputError, UsageError, first_line
from ovbench.utils.paths import shipped

Captioner = Callable[[Picture], list[str]]
MAX_TOKENS = 256
HOW = (
    "give a folder of NAME.txt, COCO captions (.json), a .jsonl or .csv with image and caption, "
    "transformers:MODEL or openai:MODEL"
)


class UnreadableImage(InputError):
    """The image is at fault, not what should caption it; a build notes it and goes on."""


def describe_source(source: str, prompt: str) -> dict[str, Any]:
    """What the captions depend on: of files their names, sizes and times, of a model its name and the prompt."""
    kind, colon, model = source.partition(":")
    if colon and kind in ("transformers", "openai"):
        return {"model": model, "through": kind, "prompt": prompt, "max_tokens": MAX_TOKENS}
    path = Path(source)
    if not path.exists():
        raise InputError(f'no captions at "{source}"', fix=HOW)
    if path.is_dir():
        stats = ((file.relative_to(path).as_posix(), file.stat()) for file in sorted(path.rglob("*.txt")))
        listing = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
        return {"folder": path.name, "listing_sha256": hashlib.sha256(listing.encode()).hexdigest()}
    stat = path.stat()
    return {"file": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def open_captions(source: str, prompt: str, *, base_url: str = "", device: str = "cpu") -> Captioner:
    """The captions of an image by its picture; an empty list where a file has none for it. A model's captioner raises
    UnreadableImage for an image that cannot be read, any for what else goes wrong InputError."""
    kind, colon, model = source.partition(":")
    if colon and kind == "transformers":
        return _transformers(model, prompt, device)
    if colon and kind == "openai":
        return _server(model, prompt, base_url)
    path = Path(source)
    if path.is_dir():
        return lambda picture: _folder(path, picture)
    if path.suffix.lower() in (".json", ".jsonl", ".csv"):
        return _file(path)
    raise UsageError(f'"{source}" is no source of captions', fix=HOW)


def read_prompt(file: Path | None) -> str:
    try:
        return (file or shipped("configs", "caption_prompt.txt")).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f'cannot read the prompt "{file}": {error.strerror}') from None


def _folder(folder: Path, picture: Picture) -> list[str]:
    path = (folder / picture.id).with_suffix(".txt")
    if not path.is_file():
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the captions: {first_line(error)}", where=str(path)) from None


def _file(path: Path) -> Captioner:
    captions = index_captions(path, key=_name)

    def named(picture: Picture) -> list[str]:
        return captions(picture.id) or captions(picture.id.rpartition("/")[2])  # a file may leave out the folder

    return named


def _name(text: str) -> str:
    """An image's name without the suffix of its file."""
    stem, dot, suffix = text.rpartition(".")
    return stem if dot and suffix.lower() in ("jpg", "jpeg", "png", "webp", "bmp") else text


def _transformers(model: str, prompt: str, device: str) -> Captioner:
    """Greedy decoding by an image-text-to-text model; one without a chat form (BLIP-2) gets no instructions."""
    try:
        import torch
        from PIL import Image
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise UsageError("captioning needs transformers", fix='pip install "ovbench[regions]"') from None
    precision = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    try:
        processor = AutoProcessor.from_pretrained(model)
        network = AutoModelForImageTextToText.from_pretrained(model, dtype=precision).to(device).eval()
    except (OSError, ValueError) as error:
        raise InputError(
            f'the model "{model}" cannot be loaded: {first_line(error)}', fix="check its name, or give a local folder"
        ) from None
    text = None
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @torch.inference_mode()
    def captions(picture: Picture) -> list[str]:
        image = Image.fromarray(_pixels(picture))
        words = {} if text is None else {"text": text}
        inputs = processor(images=image, **words, return_tensors="pt").to(device, precision)
        tokens = network.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        given = 0 if text is None else inputs["input_ids"].shape[1]
        said = processor.batch_decode(tokens[:, given:], skip_special_tokens=True)[0].strip()
        return [said] if said else []

    return captions


def _server(model: str, prompt: str, base_url: str) -> Captioner:
    if not base_url:
        raise UsageError("no address of the server", fix="give --base-url, for example http://localhost:8000/v1")
    ask = ChatClient(base_url, model, MAX_TOKENS)

    def captions(picture: Picture) -> list[str]:
        image = {"type": "image_url", "image_url": {"url": _data_url(picture)}}
        answer = ask([{"type": "text", "text": prompt}, image])
        return [answer] if answer else []

    return captions


def _data_url(picture: Picture) -> str:
    """The image's file, if a server is sure to know its format. It is decoded first: a server only says that a request
    is bad, not that an image is."""
    kind, pixels = "png" if picture.path.suffix.lower() == ".png" else "jpeg", _pixels(picture)
    if picture.path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        data = picture.path.read_bytes()
    else:
        import cv2

        data = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _pixels(picture: Picture) -> np.ndarray:
    from ovbench.data.decode import read_image

    try:
        return read_image(picture.path)
    except InputError as error:
        raise UnreadableImage(error.what, where=error.where, fix=error.fix) from None
