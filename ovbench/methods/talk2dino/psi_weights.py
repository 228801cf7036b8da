"""psi of Talk2DINO in the registry of backbones; torch is imported when psi is loaded."""

from __future__ import annotations

from pathlib import Path

from ovbench.backbones.base import Loaded, NamedWeights
from ovbench.backbones.hub import given_file, published_file, weights_folder
from ovbench.backbones.open_clip_models import CLIP
from ovbench.backbones.timm_models import DINOV2
from ovbench.config.backbone_spec import MINI
from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import asset

QUICK = "-quickgelu"


class PsiWeights(NamedWeights):
    """The psi of a file, of a short name in configs/weights.toml, or of mini."""

    def load(self, spec: str) -> Loaded:
        """Load psi from its file."""
        from ovbench.backbones.checkpoint import tensor_hash
        from ovbench.methods.talk2dino.projection import load_psi

        psi = load_psi(self._file(spec))
        return Loaded(psi, spec, tensor_hash(psi))

    def missing(self, spec: str) -> list[str]:
        """Check that the file exists; it is never downloaded."""
        self._file(spec)
        return []

    def _file(self, spec: str) -> Path:
        """Return the file of a spec; a published file has no known hash, so it is never downloaded."""
        parsed, where = self.parse(spec), f"{self.name}={spec}"
        if parsed.file:
            return given_file(str(parsed.file), where)
        if parsed.architecture == MINI:
            return asset("mini", "psi.safetensors")
        entries = published(self.table)
        if parsed.architecture not in entries:
            raise unknown("psi", parsed.architecture, [MINI, *entries], where=where)
        path = published_file(self.table, parsed.architecture)
        if not path.is_file():
            raise InputError(
                f'the psi "{parsed.architecture}" is not on this machine',
                fix=f"put {entries[parsed.architecture]['url']} into {weights_folder()}, "
                "or give a file: --weights psi=FILE",
            )
        return path

    def require_towers(self, spec: str, clip: str, dinov2: str) -> None:
        """Check that a published psi, known by its name or the name of its file, stands beside its own CLIP and DINO.

        Others of the same widths would run and label at random. A CLIP from a file may be the right one.

        Raises:
            InputError: If it belongs to another one.
        """
        parsed, tower, text = self.parse(spec), DINOV2.parse(dinov2), CLIP.parse(clip)
        for name, entry in published(self.table).items():
            if name != parsed.architecture if parsed.file is None else parsed.file.name != entry["file"]:
                continue
            own = CLIP.parse(entry["clip"])
            other = ""
            if tower.architecture.partition(".")[0] != entry["dinov2"].partition(".")[0]:
                other = f"{entry['dinov2']}, not to {dinov2}"
            elif (text.architecture.removesuffix(QUICK) != own.architecture.removesuffix(QUICK)) or (
                text.file is None and text.tag != own.tag
            ):
                other = f"{entry['clip']}, not to {clip}"
            if other:
                raise InputError(
                    f'the psi "{name}" belongs to {other}', where=f"{self.name}={spec}",
                    fix="give the psi of that network: --weights psi=FILE, or train one: ovbench train talk2dino",
                )  # fmt: skip


PSI = PsiWeights("psi", "psi of Talk2DINO: from text features of CLIP to patch tokens of a DINO")
