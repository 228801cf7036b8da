"""Declarations of the methods of ovbench, read without torch: parameters, backbones and regions.

The class of a method inherits its declaration. For other methods, such as plug-ins, the class is the declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import ClassVar, Literal, NamedTuple

from ovbench.methods.params import (
    DiHCLIPParams,
    FreeCPParams,
    GEMParams,
    NACLIPParams,
    NoParams,
    NoResidual,
    PEARLParams,
    Residual,
    RFCLIPParams,
    SCCLIPParams,
    SCLIPParams,
    SFPParams,
)
from ovbench.methods.tower_params import (
    CASSParams,
    CorrCLIPParams,
    CorrCLIPv2Params,
    GLACLIPParams,
    LPOSSParams,
    OVStitcherParams,
    ProxyCLIPParams,
    ReMEParams,
    Talk2DINOParams,
)
from ovbench.utils.errors import InputError, warn_once
from ovbench.utils.registry import BACKBONES


class Needs(NamedTuple):
    """What a method needs from the pipeline.

    Attributes:
        backbones: Names in the registry of backbones, or of ``load_NAME`` functions beside the method.
        regions: Whether it needs region maps.
        optional: Backbones that it uses only if they are configured.
        original: Whether ``encode_image`` reads the image at its original size.
        join: "windows" if ``join`` and ``score`` get the features of all windows of an image together; "image" if
            ``join`` also returns features of one grid over the resized image, so that ``score`` returns (1, Q, gh, gw).
    """

    backbones: tuple[str, ...]
    regions: bool = False
    optional: tuple[str, ...] = ()
    original: bool = False
    join: Literal["", "windows", "image"] = ""


class Declaration:
    """The needs and the parameters of a method.

    Attributes:
        Params: Dataclass of the hyper-parameters.
        needs: Backbones and regions that the method needs.
        sees: Backbone for which windows are normalised, unless the protocol gives other constants.
    """

    Params: ClassVar[type] = NoParams
    needs: ClassVar[Needs] = Needs(backbones=("clip",))
    sees: ClassVar[str] = "clip"

    def __init_subclass__(cls) -> None:
        """Refuse a declaration of a wrong type where it is written, so that the error names its file and line."""
        super().__init_subclass__()
        needs = cls.needs
        if not isinstance(needs, Needs):
            raise TypeError(f'{cls.__name__}.needs is {needs!r}; write Needs(backbones=("clip",))')
        for names in (needs.backbones, needs.optional):
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"{cls.__name__}.needs has the backbones {names!r}; write a tuple of names")
        if not is_dataclass(cls.Params):
            raise TypeError(f"{cls.__name__}.Params is {cls.Params!r}; write a frozen dataclass")

    @classmethod
    def check_specs(cls, backbones: Mapping[str, str]) -> None:
        """Check before loading that backbones, given by their specs, fit together.

        Raises:
            InputError: If they do not.
        """


class MaskCLIPDeclaration(Declaration):
    """The declaration of MaskCLIP."""

    Params = Residual


class ClearCLIPDeclaration(Declaration):
    """The declaration of ClearCLIP."""

    Params = NoResidual


class SCLIPDeclaration(Declaration):
    """The declaration of SCLIP."""

    Params = SCLIPParams


class SCCLIPDeclaration(Declaration):
    """The declaration of SC-CLIP."""

    Params = SCCLIPParams


class SFPDeclaration(Declaration):
    """The declaration of SFP."""

    Params = SFPParams


class DiHCLIPDeclaration(Declaration):
    """The declaration of DiH-CLIP."""

    Params = DiHCLIPParams


class NACLIPDeclaration(Declaration):
    """The declaration of NACLIP."""

    Params = NACLIPParams


class GEMDeclaration(Declaration):
    """The declaration of GEM."""

    Params = GEMParams


class ProxyCLIPDeclaration(Declaration):
    """The declaration of ProxyCLIP."""

    Params = ProxyCLIPParams
    needs = Needs(backbones=("clip", "dino"))


class GLACLIPDeclaration(Declaration):
    """Declare GLA-CLIP."""

    Params = GLACLIPParams
    needs = Needs(backbones=("clip", "dino"), join="windows")


class LPOSSDeclaration(Declaration):
    """Declare LPOSS."""

    Params = LPOSSParams
    needs = Needs(backbones=("clip", "dino"), join="windows")


class CorrCLIPDeclaration(Declaration):
    """The declaration of CorrCLIP."""

    Params = CorrCLIPParams
    needs = Needs(backbones=("clip", "dino"), regions=True)


class OVStitcherDeclaration(Declaration):
    """Declare OV-Stitcher."""

    Params = OVStitcherParams
    needs = Needs(backbones=("clip", "dino"), regions=True, join="image")


class CorrCLIPv2Declaration(Declaration):
    """Declare CorrCLIPv2."""

    Params = CorrCLIPv2Params
    needs = Needs(backbones=("clip", "vfm", "support"), regions=True, optional=("auxiliary",), original=True)

    @classmethod
    def check_specs(cls, backbones: Mapping[str, str]) -> None:
        """Check that a second CLIP has a bank to score."""
        if "auxiliary" in backbones and backbones.get("support") == "none":
            raise InputError(
                f"the auxiliary CLIP {backbones['auxiliary']} scores regions of a bank, but support is none",
                fix="give --set support=FOLDER/NAME, or no auxiliary CLIP",
            )


class CASSDeclaration(Declaration):
    """The declaration of CASS."""

    Params = CASSParams
    needs = Needs(backbones=("clip", "dino"), optional=("presence",))  # presence: a second CLIP


class PEARLDeclaration(Declaration):
    """Declare PEARL."""

    Params = PEARLParams


class RFCLIPDeclaration(Declaration):
    """Declare RF-CLIP."""

    Params = RFCLIPParams

    @classmethod
    def check_specs(cls, backbones: Mapping[str, str]) -> None:
        """Warn if the tower does not have OpenAI's weights, to which the distraction channels belong."""
        spec = backbones.get("clip", "")
        if "/" in spec and not spec.endswith("/openai"):
            warn_once(
                f"RF-CLIP's distraction channels are those of OpenAI's weights; in {spec} few patches may be repaired "
                "unless you set channels"
            )


class FreeCPDeclaration(Declaration):
    """The declaration of FreeCP."""

    Params = FreeCPParams


class Talk2DINODeclaration(Declaration):
    """The declaration of Talk2DINO."""

    Params = Talk2DINOParams
    needs = Needs(backbones=("clip", "dinov2", "psi"))
    sees = "dinov2"

    @classmethod
    def check_specs(cls, backbones: Mapping[str, str]) -> None:
        """Check that a published psi is used with its own CLIP and DINO."""
        BACKBONES.load("psi").require_towers(backbones["psi"], backbones["clip"], backbones["dinov2"])


class ReMEDeclaration(Declaration):
    """The declaration of ReME."""

    Params = ReMEParams
    needs = Needs(backbones=("clip", "dinov2", "reference"), regions=True)
    sees = "dinov2"


DECLARATIONS: dict[str, type[Declaration]] = {
    "cass": CASSDeclaration,
    "clearclip": ClearCLIPDeclaration,
    "clip": Declaration,
    "corrclip": CorrCLIPDeclaration,
    "corrclipv2": CorrCLIPv2Declaration,
    "dihclip": DiHCLIPDeclaration,
    "freecp": FreeCPDeclaration,
    "gem": GEMDeclaration,
    "glaclip": GLACLIPDeclaration,
    "lposs": LPOSSDeclaration,
    "maskclip": MaskCLIPDeclaration,
    "maskclip-freecp": Declaration,
    "naclip": NACLIPDeclaration,
    "ovstitcher": OVStitcherDeclaration,
    "pearl": PEARLDeclaration,
    "proxyclip": ProxyCLIPDeclaration,
    "reme": ReMEDeclaration,
    "rfclip": RFCLIPDeclaration,
    "scclip": SCCLIPDeclaration,
    "sclip": SCLIPDeclaration,
    "sclip-freecp": Declaration,
    "sfp": SFPDeclaration,
    "talk2dino": Talk2DINODeclaration,
}
