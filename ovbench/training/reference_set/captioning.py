"""Sources of captions: files, a vision-language model, or a server."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.training.caption_files import index_captions
from ovbench.training.chat import ChatClient
from ovbench.training.reference_set.chunks import SourceImage
from ovbench.utils.errors import InputError, UsageError, first_line
from ovbench.utils.extras import install_line
from ovbench.utils.files import read_text
from ovbench.utils.paths import shipped

Captioner = Callable[[SourceImage], list[str]]
MAX_TOKENS = 256
FORMATS = (
    "give a folder of NAME.txt, COCO captions (.json), a .jsonl or .csv with image and caption, "
    "transformers:MODEL or openai:MODEL"
)


class UnreadableImage(InputError):
    """An image that cannot be read; a build notes it and continues."""


def describe_source(source: str, prompt: str) -> dict[str, Any]:
    """Return what identifies the captions: names, sizes and times of files, or a model and its prompt.

    Args:
        source: A path, "transformers:MODEL" or "openai:MODEL".
        prompt: Instructions of the model.

    Raises:
        InputError: If there is no such file.
    """
    scheme, colon, model = source.partition(":")
    if colon and scheme in ("transformers", "openai"):
        return {"model": model, "through": scheme, "prompt": prompt, "max_tokens": MAX_TOKENS}
    path = Path(source)
    if not path.exists():
        raise InputError(f'no captions at "{source}"', fix=FORMATS)
    if path.is_dir():
        stats = ((file.relative_to(path).as_posix(), file.stat()) for file in sorted(path.rglob("*.txt")))
        listing = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
        return {"folder": path.name, "listing_sha256": hashlib.sha256(listing.encode()).hexdigest()}
    stat = path.stat()
    return {"file": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def open_captions(source: str, prompt: str, *, base_url: str = "", device: str = "cpu") -> Captioner:
    """Return a function from an image to its captions, which may be none.

    It raises UnreadableImage if a model cannot read an image, and InputError if captions or a server fail.

    Args:
        source: A path, "transformers:MODEL" or "openai:MODEL".
        prompt: Instructions of the model.
        base_url: Address of the server of "openai:MODEL".
        device: Device of the transformers model.

    Raises:
        InputError: If captions or a model cannot be loaded.
        UsageError: If the source is of no known form.
    """
    scheme, colon, model = source.partition(":")
    if colon and scheme == "transformers":
        return _transformers(model, prompt, device)
    if colon and scheme == "openai":
        return _server(model, prompt, base_url)
    path = Path(source)
    if path.is_dir():
        return lambda image: _folder(path, image)
    if path.suffix.lower() in (".json", ".jsonl", ".csv"):
        return _file(path)
    raise UsageError(f'"{source}" is not a source of captions', fix=FORMATS)


def read_prompt(file: Path | None) -> str:
    """Read the instructions of the captioning model; None reads the default ones.

    Raises:
        InputError: If the file cannot be read.
    """
    return read_text(file or shipped("configs", "caption_prompt.txt"), "prompt").strip()


def _folder(folder: Path, image: SourceImage) -> list[str]:
    path = (folder / image.id).with_suffix(".txt")
    if not path.is_file():
        return []
    return [line.strip() for line in read_text(path, "caption file").splitlines() if line.strip()]


def _file(path: Path) -> Captioner:
    captions = index_captions(path, key=_name)

    def named(image: SourceImage) -> list[str]:
        return captions(image.id) or captions(image.id.rpartition("/")[2])  # a file may leave out the folder

    return named


def _name(text: str) -> str:
    """Return an image's name without the suffix of its file."""
    stem, dot, suffix = text.rpartition(".")
    return stem if dot and suffix.lower() in ("jpg", "jpeg", "png", "webp", "bmp") else text


def _transformers(model: str, prompt: str, device: str) -> Captioner:
    """Decode greedily; a model without a chat template (BLIP-2) gets no instructions."""
    try:
        import torch
        from PIL import Image
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise UsageError("captioning needs transformers", fix=install_line("regions")) from None
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
    def captions(image: SourceImage) -> list[str]:
        pixels = Image.fromarray(_pixels(image))
        given = {} if text is None else {"text": text}
        inputs = processor(images=pixels, **given, return_tensors="pt").to(device, precision)
        tokens = network.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        start = 0 if text is None else inputs["input_ids"].shape[1]
        answer = processor.batch_decode(tokens[:, start:], skip_special_tokens=True)[0].strip()
        return [answer] if answer else []

    return captions


def _server(model: str, prompt: str, base_url: str) -> Captioner:
    if not base_url:
        raise UsageError("no address of the server", fix="give --base-url, for example http://localhost:8000/v1")
    ask = ChatClient(base_url, model, MAX_TOKENS)

    def captions(image: SourceImage) -> list[str]:
        attachment = {"type": "image_url", "image_url": {"url": _data_url(image)}}
        answer = ask([{"type": "text", "text": prompt}, attachment])
        return [answer] if answer else []

    return captions


def _data_url(image: SourceImage) -> str:
    """Return the image as a data URL, re-encoded unless it is PNG or JPEG.

    It is decoded first, because a server reports a damaged image like any other bad request.
    """
    subtype, pixels = "png" if image.path.suffix.lower() == ".png" else "jpeg", _pixels(image)
    if image.path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        data = image.path.read_bytes()
    else:
        import cv2

        data = cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes()
    return f"data:image/{subtype};base64,{base64.b64encode(data).decode()}"


def _pixels(image: SourceImage) -> np.ndarray:
    from ovbench.data.decode import read_image

    try:
        return read_image(image.path)
    except InputError as error:
        raise UnreadableImage(error.what, where=error.where, fix=error.fix) from None
