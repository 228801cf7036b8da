"""psi of Talk2DINO in the registry of backbones; torch is imported when psi is loaded."""

from __future__ import annotations

from pathlib import Path

from ovbench.backbones.base import Loaded, NamedWeights
from ovbench.backbones.hub import given_file, published_file, weights_folder
from ovbench.backbones.timm_models import DINOV2
from ovbench.config.backbone_spec import MINI
from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import asset


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

    def require_tower(self, spec: str, dinov2: str) -> None:
        """Check that a published psi, known by its name or the name of its file, stands beside its own DINO.

        Another DINO of the same width would run and label at random.

        Raises:
            InputError: If it belongs to another one.
        """
        parsed, tower = self.parse(spec), DINOV2.parse(dinov2)
        for name, entry in published(self.table).items():
            known = parsed.file.name == entry["file"] if parsed.file else parsed.architecture == name
            if known and tower.architecture.partition(".")[0] != entry["dinov2"].partition(".")[0]:
                raise InputError(
                    f'the psi "{name}" belongs to {entry["dinov2"]}, not to {dinov2}',
                    where=f"{self.name}={spec}",
                    fix="give the psi of that DINO: --weights psi=FILE, or train one: ovbench train talk2dino",
                )


PSI = PsiWeights("psi", "psi of Talk2DINO: from text features of CLIP to patch tokens of a DINO")
