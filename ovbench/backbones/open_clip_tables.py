"""Architectures, pretrained tags and the vocabulary of open_clip, read without importing the whole package.

``import open_clip`` loads torchvision, timm and transformers and takes twice as long as torch. Its tables are JSON
files and modules that need none of them. If the package is loaded already, it is asked, since a plug-in may have added
architectures to it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovbench.backbones.clip_tokenizer import ClipTokenizer

ALIAS = "_ovbench_open_clip"  # a package with open_clip's files and without its __init__


def folder() -> Path:
    """Return the folder of the installed package."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("open_clip is not installed", name="open_clip")
    return Path(spec.submodule_search_locations[0])


def module(name: str) -> ModuleType:
    """Return one module of open_clip, such as "pretrained", without running the package's ``__init__``."""
    if "open_clip" in sys.modules:
        return importlib.import_module(f"open_clip.{name}")
    if ALIAS not in sys.modules:
        package = ModuleType(ALIAS)
        package.__path__ = [str(folder())]
        sys.modules[ALIAS] = package
    return importlib.import_module(f"{ALIAS}.{name}")


def architecture(name: str) -> dict[str, Any] | None:
    """Return the configuration of an architecture, None if open_clip has none of this name."""
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"].get_model_config(name)
    path = folder() / "model_configs" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if name in architectures() else None


def architectures() -> list[str]:
    """Return the names of all architectures."""
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"].list_models()
    return sorted(path.stem for path in (folder() / "model_configs").glob("*.json"))


def pretrained_tags(name: str) -> list[str]:
    """Return the pretrained tags of an architecture."""
    return module("pretrained").list_pretrained_tags_by_model(name)


def pretrained(name: str, tag: str) -> dict[str, Any]:
    """Return the configuration of a pretrained tag."""
    return module("pretrained").get_pretrained_cfg(name, tag)


def download(config: dict[str, Any]) -> Path:
    """Download the file of a pretrained tag, by open_clip, and return its path."""
    return Path(module("pretrained").download_pretrained(config))


def clip_tokenizer(context_length: int) -> ClipTokenizer:
    """Return CLIP's tokenizer with open_clip's list of merges."""
    from ovbench.backbones.clip_tokenizer import ClipTokenizer

    return ClipTokenizer(folder() / "bpe_simple_vocab_16e6.txt.gz", context_length)
