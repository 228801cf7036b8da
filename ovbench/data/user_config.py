"""The user's config file: data roots, and cards that are used by their names."""

from __future__ import annotations

import os
from pathlib import Path

from ovbench.utils.toml import read_toml
from ovbench.utils.typed import Items, Typed, validate

FIX = 'write data_root = "/data" or data_root = ["/data", "/more"], and cards = ["/data/mine/ovbench.toml"]'


class UserConfig(Typed):
    """The user's config file: ``cards`` are the paths of cards."""

    data_root: str | Items[str] = ()
    cards: Items[str] = ()


def config_file() -> Path:
    """Return the path of the user's config file, which may not exist.

    Returns:
        ``ovbench/config.toml`` in the user's config folder.
    """
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "ovbench" / "config.toml"


def _config() -> UserConfig:
    path = config_file()
    return validate(UserConfig, read_toml(path), str(path), fix=FIX) if path.is_file() else UserConfig()


def configured_roots() -> list[str]:
    """Return the data roots of the config file.

    Raises:
        InputError: If the file is malformed.
    """
    roots = _config().data_root
    return [roots] if isinstance(roots, str) else list(roots)


def user_cards() -> dict[str, Path]:
    """Return the cards of the config file by name; a card without a name, or that is missing, is named by its file.

    Raises:
        InputError: If the config file or a card is malformed.
    """
    found = {}
    for text in _config().cards:
        path = Path(text).expanduser()
        name = read_toml(path).get("name") if os.path.isfile(path) else None  # False also for a name that is too long
        found[name if isinstance(name, str) else path.stem] = path
    return found
