"""Label values and file names of the test servers of Cityscapes and ADE20K."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ovbench.data.card import Card
from ovbench.utils.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


class ServerLayout(NamedTuple):
    """How a test server wants label maps: PNG files of 8 bits in one folder.

    Attributes:
        encoding: Name of the card's encoding that has the values.
        without: End of image names that is removed.
        ending: End of the files' names.
    """

    encoding: str
    without: str
    ending: str

    def file_name(self, image_id: str) -> str:
        """Return the name of the file of an image.

        Example:
            >>> ServerLayout("ids", "_leftImg8bit", "_labelIds.png").file_name("berlin/berlin_000000_000019")
            'berlin_000000_000019_labelIds.png'
        """
        return PurePosixPath(image_id).name.removesuffix(self.without) + self.ending


LAYOUTS = {
    "cityscapes": ServerLayout("ids", "_leftImg8bit", "_labelIds.png"),  # label ids 0..33, not train ids
    "ade150": ServerLayout("raw", "", ".png"),  # 1..150; 0 is no class
}


def server_layout(card: Card) -> ServerLayout:
    """Return the layout of a benchmark's test server.

    Raises:
        UsageError: If the layout of its server is not known.
    """
    if not card.is_shipped or card.name not in LAYOUTS:
        raise UsageError(
            f"the layout of a test server of {card.name} is not known", fix=f"it is known of {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[card.name]


def class_values(card: Card, encoding: str) -> np.ndarray:
    """Return the label value of each class in an encoding, uint16 (C,).

    Raises:
        UsageError: If a class has no value or several.
    """
    import numpy as np

    from ovbench.data.labels import label_map

    table = label_map(card.encoding(encoding), len(card.classes)).table
    values = [np.flatnonzero(table == number) for number in range(len(card.classes))]
    if any(len(found) != 1 for found in values):
        raise UsageError(f'the encoding "{encoding}" of {card.name} does not give each class one value')
    return np.concatenate(values).astype(np.uint16)
