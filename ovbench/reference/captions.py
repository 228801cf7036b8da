"""Where captions come from: files made elsewhere, a vision-language model, or a server that runs one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.errors import InputError, UsageError, first_line
from ovbench.reference.parts import Picture
from ovbench.resources import shipped

Captioner = Callable[[Picture], list[str]]
MAX_TOKENS = 256
ATTEMPTS = 5
PATIENCE_S = 120.0
BUSY = (408, 429, 500, 502, 503, 504)
HOW = (
    "give a folder of NAME.txt, a .jsonl with image_id and caption, a COCO captions .json, "
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
    if path.suffix == ".jsonl":
        return _jsonl(path)
    if path.suffix == ".json":
        return _coco(path)
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


def _jsonl(path: Path) -> Captioner:
    """Only the places of the lines are kept in memory."""
    places: dict[str, list[int]] = {}
    file = path.open("rb")
    place = 0
    for number, line in enumerate(file, 1):
        if line.strip():
            places.setdefault(_name(_row(line, path, number)["image_id"]), []).append(place)
        place += len(line)

    def captions(picture: Picture) -> list[str]:
        found = []
        for key in _keys(picture):
            for start in places.get(key, ()):
                file.seek(start)
                value = json.loads(file.readline())["caption"]
                found += value if isinstance(value, list) else [value]
        return [text.strip() for text in found if isinstance(text, str) and text.strip()]

    return captions


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        row["image_id"], row["caption"]
        return row
    except (ValueError, TypeError, KeyError):
        raise InputError(
            "not a JSON object with image_id and caption", where=f"{path}, line {number}", fix="repair this line"
        ) from None


def _coco(path: Path) -> Captioner:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: _name(image["file_name"]) for image in document["images"]}
        captions: dict[str, list[str]] = {}
        for annotation in document["annotations"]:
            captions.setdefault(names[annotation["image_id"]], []).append(annotation["caption"].strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"no COCO captions: {first_line(error)}", where=str(path)) from None
    return lambda picture: next((captions[key] for key in _keys(picture) if key in captions), [])


def _keys(picture: Picture) -> list[str]:
    """Names by which a file may know an image: its id, or the id's last part."""
    return list(dict.fromkeys((picture.id, picture.id.rpartition("/")[2])))


def _name(value: Any) -> str:
    """An image's name without the suffix of its file."""
    text = str(value)
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
    """Any server that speaks the chat completions of OpenAI; its key, if it wants one, is in OVBENCH_LLM_KEY."""
    if not base_url:
        raise UsageError("no address of the server", fix="give --base-url, for example http://localhost:8000/v1")
    url = base_url.rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OVBENCH_LLM_KEY"):
        headers["Authorization"] = f"Bearer {key}"

    def captions(picture: Picture) -> list[str]:
        content = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": _data_url(picture)}}]
        question = {
            "model": model, "messages": [{"role": "user", "content": content}], "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }  # fmt: skip
        answer = _ask(urllib.request.Request(url, json.dumps(question).encode(), headers))
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise InputError("the server's answer is no chat completion", where=url) from None
        return [text.strip()] if isinstance(text, str) and text.strip() else []  # null where a model refuses

    return captions


def _ask(request: urllib.request.Request) -> Any:
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            reason, again = f"{error.code} {error.reason}", error.code in BUSY
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason, again = first_line(error), True
        except ValueError:
            reason, again = "it sends no JSON", False
        if not again:
            break
        if attempt + 1 < ATTEMPTS:
            time.sleep(min(2**attempt * 0.5, 8.0))
    raise InputError(
        f"the caption server does not answer: {reason}", where=request.full_url,
        fix="check its address; run the same command again to go on",
    )  # fmt: skip


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
