"""A reference set as a frozen module, which goes wherever the networks go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.utils.errors import InputError


class Encoder(NamedTuple):
    """A network by its name and the hash of its tensors."""

    name: str
    sha256: str


class ReferenceBank(nn.Module):
    """S_ref, L_ref and O_ref: ``segments`` f[m, d1] and ``labels`` f[n, d2], as stored, not necessarily of length 1;
    the labels of row i are ``columns[starts[i] : starts[i + 1]]``, i32[z] and i64[m + 1].

    ``encoders``: what the embeddings were made with ("dinov2", "clip"), and ``settings`` the ones that an image must
    share, with ``zeta`` and ``o_rownorm`` (whether the rows of O sum to 1) among them where they are not the usual
    ones; both empty for a set from arrays.
    """

    def __init__(
        self,
        segments: Tensor,
        labels: Tensor,
        starts: Tensor,
        columns: Tensor,
        encoders: dict[str, Encoder] | None = None,
        settings: dict[str, Any] | None = None,
    ):
        super().__init__()
        if not len(segments) or not len(labels):
            raise InputError("the reference set is empty", fix="build it from more images, or with weaker filters")
        self.register_buffer("segments", segments)
        self.register_buffer("labels", labels)
        self.register_buffer("starts", starts)
        self.register_buffer("columns", columns)
        self.encoders, self.settings = encoders or {}, settings or {}

    @classmethod
    def from_pairs(
        cls, segments: Tensor, labels: Tensor, rows: Tensor, columns: Tensor, settings: dict[str, Any] | None = None
    ) -> ReferenceBank:
        """From the ones of O_ref as rows i[z] and columns i[z], in any order."""
        order = torch.argsort(rows.long(), stable=True)
        starts = F.pad(torch.bincount(rows.long(), minlength=len(segments)).cumsum(0), (1, 0))
        return cls(segments, labels, starts, columns[order].int(), settings=settings)

    @property
    def visual_width(self) -> int:
        return self.segments.shape[1]

    @property
    def zeta(self) -> str:
        return self.settings.get("zeta", "area")

    def spread(self, a2: Tensor) -> Tensor:
        """O A2: the sum of the rows of f[n, Q] over the labels of each segment, f[m, Q]; their mean with o_rownorm."""
        mode = "mean" if self.settings.get("o_rownorm") else "sum"
        return F.embedding_bag(self.columns.long(), a2, self.starts[:-1], mode=mode)

    def matrix(self) -> Tensor:
        """O itself, f[m, n]; for small sets."""
        return self.spread(torch.eye(len(self.labels), device=self.labels.device))

    def require(self, used: Mapping[str, Encoder], protocol: Any) -> None:
        """InputError where the set was built with another encoder, or with images or words prepared otherwise, than
        what it is used with."""
        for key, made in self.settings.items():
            if getattr(protocol, key, made) != made:
                raise InputError(
                    f"the reference set was built with {key} {made}, not {getattr(protocol, key)}",
                    fix=f"give --set {key}={made}, or build a set with this setting",
                )
        for kind, made in self.encoders.items():
            if kind in used and used[kind].sha256 != made.sha256:
                raise InputError(
                    f'the reference set was built with the {kind} "{made.name}" ({made.sha256[:8]}), '
                    f'not with "{used[kind].name}" ({used[kind].sha256[:8]})',
                    fix=f"give --weights {kind}={made.name}, or build a set with this encoder",
                )
