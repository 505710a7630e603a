"""The one place where raw label images become class ids."""

from dataclasses import dataclass

import numpy as np
import PIL.Image

from aucseg_hf.errors import InputError

VOID = 255
"""Id of pixels without a class, everywhere behind `LabelRule`."""

_ID_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")


@dataclass(frozen=True)
class LabelRule:
    """How the raw ids of a data set map to class ids.

    Args:
        num_labels: Number of classes K; valid raw ids are 0..K-1.
        ignore_index: Raw id of pixels without a class. They become `VOID`.

    Raises:
        InputError: If there are fewer than 2 classes or more than 255.
    """

    num_labels: int
    ignore_index: int = VOID

    def __post_init__(self) -> None:
        """Checks the class count."""
        if not 2 <= self.num_labels <= VOID:
            raise InputError(f"expected 2 to {VOID} classes, got {self.num_labels}")

    def __call__(self, mask: PIL.Image.Image, name: str = "label image") -> np.ndarray:
        """Turns one label image into class ids.

        Args:
            mask: Single-channel image whose pixel values are raw ids (modes 1, L, P, I, I;16).
            name: File name, for the error message.

        Returns:
            uint8 array [H, W] with 0..K-1 and `VOID`.

        Raises:
            InputError: If the image has several channels or holds an id outside the range.
        """
        if mask.mode not in _ID_MODES:
            raise InputError(
                f"expected a single-channel image of class ids in {name}, got mode {mask.mode}: "
                "convert colours to class ids first"
            )
        raw = np.asarray(mask).astype(np.int64)
        void = raw == self.ignore_index
        outside = ~void & ((raw < 0) | (raw >= self.num_labels))
        if outside.any():
            raise InputError(
                f"label id {int(raw[outside][0])} in {name} is outside 0..{self.num_labels - 1} "
                f"and not the ignore index {self.ignore_index}"
            )
        return np.where(void, VOID, raw).astype(np.uint8)
