"""A reference set as a frozen module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.utils.errors import InputError


class Encoder(NamedTuple):
    """The name of a network and the hash of its tensors."""

    name: str
    sha256: str


class ReferenceBank(nn.Module):
    """The segments, the labels and the binary matrix of a reference set (S_ref, L_ref and O_ref).

    Args:
        segments: S_ref, float (M, D1), not necessarily of length 1.
        labels: L_ref, float (N, D2), not necessarily of length 1.
        starts: Offsets of the rows of O_ref, int64 (M + 1,).
        columns: Labels of all rows, int32 (Z,); row i has ``columns[starts[i] : starts[i + 1]]``.
        encoders: The networks of the embeddings, "dinov2" and "clip"; empty for a set from arrays.
        settings: Settings that the images to be segmented must share. ``zeta`` and ``o_rownorm`` (the rows of O sum to
            1) are among them unless they have their defaults.

    Raises:
        InputError: If there are no segments or no labels.
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
        """Make a bank from the rows and columns, int (Z,), of the ones of O_ref, in any order.

        Args:
            segments: S_ref, float (M, D1).
            labels: L_ref, float (N, D2).
            rows: int (Z,).
            columns: int (Z,).
            settings: See `ReferenceBank`.
        """
        order = torch.argsort(rows.long(), stable=True)
        starts = F.pad(torch.bincount(rows.long(), minlength=len(segments)).cumsum(0), (1, 0))
        return cls(segments, labels, starts, columns[order].int(), settings=settings)

    @property
    def visual_width(self) -> int:
        """Width D1 of the segments."""
        return self.segments.shape[1]

    @property
    def zeta(self) -> str:
        """How masks become weights of patches."""
        return self.settings.get("zeta", "area")

    def spread(self, a2: Tensor) -> Tensor:
        """Return O A2: the sum (the mean with ``o_rownorm``) of the rows of each segment's labels.

        Args:
            a2: Similarities of labels and queries, float (N, Q).

        Returns:
            Similarities of segments and queries, float (M, Q).
        """
        mode = "mean" if self.settings.get("o_rownorm") else "sum"
        return F.embedding_bag(self.columns.long(), a2, self.starts[:-1], mode=mode)

    def matrix(self) -> Tensor:
        """Return O as a dense matrix, float (M, N); for small sets."""
        return self.spread(torch.eye(len(self.labels), device=self.labels.device))

    def require(self, used: Mapping[str, Encoder], protocol: Any) -> None:
        """Check that the set was built with the encoders and settings that it is used with.

        Args:
            used: The encoders of the method, by name.
            protocol: Settings of the method, as attributes.

        Raises:
            InputError: With the name of the encoder or setting that differs.
        """
        for key, made in self.settings.items():
            if getattr(protocol, key, made) != made:
                raise InputError(
                    f"the reference set was built with {key} {made}, not {getattr(protocol, key)}",
                    fix=f"give --set {key}={made}, or build a set with this setting",
                )
        for name, made in self.encoders.items():
            if name in used and used[name].sha256 != made.sha256:
                raise InputError(
                    f'the reference set was built with the {name} "{made.name}" ({made.sha256[:8]}), '
                    f'not with "{used[name].name}" ({used[name].sha256[:8]})',
                    fix=f"give --weights {name}={made.name}, or build a set with this encoder",
                )
