"""The one place where raw label images become class ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import PIL.Image

from aucseg_hf.errors import InputError

VOID = 255
"""Id of pixels without a class, everywhere behind `LabelRule`."""

Color = tuple[int, int, int]
Palette = tuple[Color, ...]

_LARGEST_RAW_ID = 2**16 - 1
_ID_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B")
_COLOR_MODES = ("RGB", "RGBA")


@dataclass(frozen=True)
class LabelRule:
    """How the label images of a data set map to class ids.

    Images of one channel (modes 1, L, P, I and I;16) hold raw ids. Images of colours (RGB and RGBA,
    whose alpha is left out) are read with the palette. A P image holds raw ids too, unless its own
    palette gives the colour of one class to the id of another: then a tool has stored a
    colour-coded image with a palette, and the colours count.

    Args:
        num_labels: Number of classes K.
        ignore_index: Raw id of pixels without a class. They become `VOID`.
        id_map: Class id, or `VOID`, of every raw id that may occur. By default raw ids 0..K-1 are
            the class ids.
        reduce_labels: Raw id 0 is void and 1..K are the classes 0..K-1, as in ADE20K.
        palette: One colour a class, in the order of the ids.
        void_color: Colour of pixels without a class.

    Raises:
        InputError: If there are fewer than 2 classes or more than 255, or the other values do not
            fit them.
    """

    num_labels: int
    ignore_index: int = VOID
    id_map: Mapping[int, int] | None = None
    reduce_labels: bool = False
    palette: Palette | None = None
    void_color: Color | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 2 <= self.num_labels <= VOID:
            raise InputError(f"expected 2 to {VOID} classes, got {self.num_labels}")
        if not 0 <= self.ignore_index <= _LARGEST_RAW_ID:
            raise InputError(
                f"expected ignore_index in 0..{_LARGEST_RAW_ID}, got {self.ignore_index}"
            )
        if self.id_map is not None and self.reduce_labels:
            raise InputError("expected id_map or reduce_labels, got both: put 0: 255 in the id_map")
        for raw, class_id in (self.id_map or {}).items():
            known = 0 <= class_id < self.num_labels or class_id == VOID
            if not known or not 0 <= raw <= _LARGEST_RAW_ID:
                raise InputError(
                    f"expected raw ids 0..{_LARGEST_RAW_ID} that map to 0..{self.num_labels - 1} "
                    f"or {VOID}, got {raw}: {class_id} in id_map"
                )
        if self.palette is not None and len(self.palette) != self.num_labels:
            raise InputError(
                f"expected a palette of {self.num_labels} colours, got {len(self.palette)}"
            )

    def __call__(self, mask: PIL.Image.Image, name: str = "label image") -> np.ndarray:
        """Turns one label image into class ids.

        Args:
            mask: Image of raw ids or of colours.
            name: File name, for the error message.

        Returns:
            uint8 array [H, W] with 0..K-1 and `VOID`.

        Raises:
            InputError: If a pixel has an id or a colour that the rule does not cover, or the image
                is of another kind.
        """
        if mask.mode in _COLOR_MODES:
            return self._from_colors(mask, name)
        if mask.mode not in _ID_MODES:
            raise InputError(
                f"expected class ids (mode L, P, I or 1) or colours (RGB) in {name}, "
                f"got mode {mask.mode}: save it as a PNG of one of these modes"
            )
        if mask.mode == "P" and self._colors_contradict_ids(mask):
            return self._from_colors(mask.convert("RGB"), name)
        return self._from_ids(np.asarray(mask), name)

    def _from_ids(self, raw: np.ndarray, name: str) -> np.ndarray:
        index = raw
        if raw.dtype != np.uint8:
            # The last entry belongs to no id: whatever lies outside the table lands there.
            last = len(self._id_table) - 1
            index = raw.astype(np.int64)
            index = np.where((index < 0) | (index > last), last, index)
        codes = np.take(self._id_table, index)
        if not codes.all():
            y, x = np.argwhere(codes == 0)[0]
            raise InputError(
                f"label id {int(raw[y, x])} in {name} at pixel ({x}, {y}) has no class: "
                f"expected {self._expected_ids()}"
            )
        return (codes - 1).astype(np.uint8)

    def _from_colors(self, mask: PIL.Image.Image, name: str) -> np.ndarray:
        if self.palette is None:
            raise InputError(
                f"expected a single-channel image of class ids in {name}, got mode {mask.mode}: "
                "give the colour of every class in palette.json"
            )
        repeated = _repeated_color(self.palette, self.void_color)
        if repeated is not None:
            raise InputError(
                f"cannot read the colours of {name}: expected one colour a class, got {repeated} "
                "more than once in the palette"
            )
        packed = np.asarray(mask.convert("RGBA")).view("<u4")[..., 0] & 0xFFFFFF
        codes = np.take(_color_table(self.palette, self.void_color), packed)
        if not codes.all():
            y, x = np.argwhere(codes == 0)[0]
            raise InputError(
                f"colour {mask.getpixel((int(x), int(y)))[:3]} in {name} at pixel ({x}, {y}) is "
                f"not in the palette: expected one of the {self.num_labels} class colours"
                + (f" or {self.void_color} for void" if self.void_color else "")
            )
        return (codes - 1).astype(np.uint8)

    def _colors_contradict_ids(self, mask: PIL.Image.Image) -> bool:
        if self.palette is None or _repeated_color(self.palette, self.void_color) is not None:
            return False
        own = np.array(mask.getpalette("RGB"), np.int64).reshape(-1, 3)
        used = np.flatnonzero(mask.histogram()[: len(own)])
        packed = own[used] @ [1, 1 << 8, 1 << 16]
        by_color = _color_table(self.palette, self.void_color)[packed]
        return bool(((by_color != 0) & (by_color != self._id_table[used])).any())

    @cached_property
    def _id_table(self) -> np.ndarray:
        """uint16: class id + 1 of every raw id, 0 where the rule covers none."""
        if self.id_map is not None:
            id_map = dict(self.id_map)
        else:
            id_map = {raw + self.reduce_labels: raw for raw in range(self.num_labels)}
            if self.reduce_labels:
                id_map[0] = VOID
        id_map[self.ignore_index] = VOID
        table = np.zeros(max(VOID, *id_map) + 2, np.uint16)
        table[list(id_map)] = np.array(list(id_map.values())) + 1
        return table

    def _expected_ids(self) -> str:
        if self.id_map is not None:
            ids = sorted({*self.id_map, self.ignore_index})
            listed = ids if len(ids) <= 40 else f"the {len(ids)} of {ids[0]}..{ids[-1]} in id_map"
            return f"one of {listed}"
        first = int(self.reduce_labels)
        void = f"0 and {self.ignore_index}" if self.reduce_labels else str(self.ignore_index)
        return f"{first}..{self.num_labels - 1 + first}, and {void} for void"


@lru_cache(maxsize=8)
def _color_table(palette: Palette, void_color: Color | None) -> np.ndarray:
    """uint16 [2^24]: class id + 1 of every colour r + 256 g + 65536 b, 0 where there is none.

    32 MiB of addresses; the system stores zeros only around the colours that are written.
    """
    table = np.zeros(1 << 24, np.uint16)
    colors = dict(enumerate(palette))
    if void_color is not None:
        colors[VOID] = void_color
    for class_id, (r, g, b) in colors.items():
        table[r + (g << 8) + (b << 16)] = class_id + 1
    return table


@lru_cache(maxsize=8)
def _repeated_color(palette: Palette, void_color: Color | None) -> Color | None:
    colors = [*palette] if void_color is None else [*palette, void_color]
    return next((color for i, color in enumerate(colors) if color in colors[:i]), None)
