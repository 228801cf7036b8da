"""Find or download files of published weights."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import replacing
from ovbench.utils.paths import cache_root

PATIENCE_S = 5.0


class Source(NamedTuple):
    """The origin of weights: a hub repository or a URL, and possible names of the file."""

    place: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.files[0]} of {self.place}"

    def find(self) -> Path | None:
        """Return the file on this machine, from the hub's cache or a library's cache of URLs, or None."""
        if "://" not in self.place:
            return local_file(self.place, *self.files)
        import torch

        folders = (Path.home() / ".cache" / "clip", Path(torch.hub.get_dir()) / "checkpoints")
        return next((path for path in (folder / self.files[0] for folder in folders) if path.is_file()), None)

    def require(self) -> None:
        """Check that the file can be downloaded.

        Raises:
            InputError: If the host cannot be reached, or downloads are switched off.
        """
        from huggingface_hub import constants

        require_connection(self.place if "://" in self.place else constants.ENDPOINT, [str(self)])


def local_file(source: str, *names: str) -> Path | None:
    """Return the first of the named files in the folder ``source`` or the hub's cache of that repository, or None."""
    if Path(source).is_dir():
        return next((path for path in (Path(source) / name for name in names) if path.is_file()), None)
    from huggingface_hub import constants

    if not Path(constants.HF_HUB_CACHE, f"models--{source.replace('/', '--')}").is_dir():
        return None  # the rest of the library takes a third of a second to import
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in names:
        try:
            found = try_to_load_from_cache(source, name)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def fetch_file(source: str, *names: str) -> Path:
    """Return the first of the named files; download it if it is not on this machine.

    Raises:
        InputError: If it could not be downloaded.
    """
    here = local_file(source, *names)
    if here is not None:
        return here
    problem: Exception = FileNotFoundError("no such file in that folder")
    if not Path(source).is_dir():
        from huggingface_hub import constants, hf_hub_download

        require_connection(constants.ENDPOINT, [f"{names[0]} of {source}"])

        for name in names:
            try:
                return Path(hf_hub_download(source, name))
            except Exception as error:  # hub, network and file errors have no common base class
                problem = error
    raise InputError(
        f"{names[0]} of {source} is not on this machine and could not be downloaded ({first_line(problem)})",
        fix="run once with a connection, copy the file to this machine, or give a local file",
    )


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def require_connection(url: str, absent: Sequence[str]) -> None:
    """Check that a host can be reached.

    Args:
        url: An address on that host.
        absent: The files to download, for the message.

    Raises:
        InputError: If it cannot be reached, or downloads are switched off.
    """
    from urllib.request import getproxies  # loads the HTTP client

    parts = urlsplit(url)
    reason = "downloads are switched off" if offline() else None
    if reason is None and not getproxies().get(parts.scheme):
        try:
            socket.create_connection((parts.hostname or "", parts.port or 443), timeout=PATIENCE_S).close()
        except OSError as error:
            reason = f"{parts.hostname} cannot be reached: {error.strerror or error}"
    if reason:
        raise InputError(
            f"missing weights: {', '.join(absent)} ({reason})",
            fix="run once with a connection, copy the files to this machine, or give a local file",
        )


def weights_folder() -> Path:
    """Return the folder of weights that are not on a hub: ``$OVBENCH_WEIGHTS``, otherwise "weights" in the cache."""
    chosen = os.environ.get("OVBENCH_WEIGHTS")
    return Path(chosen).expanduser() if chosen else cache_root() / "weights"


def published_file(kind: str, name: str) -> Path:
    """Return the path of a file named in configs/weights.toml, whether or not it exists."""
    return weights_folder() / published(kind)[name]["file"]


def fetch_published(kind: str, name: str) -> Path:
    """Return the path of a file named in configs/weights.toml; download it if it does not exist, and check its hash.

    Raises:
        InputError: If it could not be downloaded, or has another hash.
    """
    path, entry = published_file(kind, name), published(kind)[name]
    if path.is_file():
        return path
    require_connection(entry["url"], [f"{path} (from {entry['url']})"])
    import torch

    with replacing(path) as temporary:
        try:
            torch.hub.download_url_to_file(entry["url"], str(temporary), entry["sha256"], progress=False)
        except RuntimeError:  # of the hash
            raise InputError(f"{entry['url']} sent other bytes than the published ones", fix="try again") from None
        except OSError as error:  # urllib's errors are among them
            raise InputError(
                f"{path.name} could not be downloaded ({first_line(error)})",
                where=f"looked in {path.parent}",
            ) from None
    return path


def given_file(path: str, where: str) -> Path:
    """Return the path of a file that the user has given.

    Raises:
        InputError: If it does not exist.
    """
    if not Path(path).is_file():
        raise InputError(f'no weights file "{path}"', where=where, fix="check the path")
    return Path(path)
