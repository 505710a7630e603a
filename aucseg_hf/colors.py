"""Colours of classes, and label maps painted with them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from aucseg_hf.errors import InputError

VOID_COLOR = (0, 0, 0)
# Okabe and Ito's colours for all kinds of colour vision, without black, which stands for void.
_SAFE_COLORS = np.array(
    [[0, 114, 178], [230, 159, 0], [0, 158, 115], [213, 94, 0]]
    + [[86, 180, 233], [204, 121, 167], [240, 228, 66]],
    dtype=np.uint8,
)
# Linear RGB as seen by normal eyes and without red, green or blue cones (Machado, Oliveira and
# Fernandes 2009).
_VISIONS = np.reshape(
    [1, 0, 0, 0, 1, 0, 0, 0, 1]
    + [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998]
    + [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881]
    + [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900],
    (4, 3, 3),
)
# Linear RGB to cone responses, and their cube roots to OKLab (Ottosson 2020).
_RGB_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_CONES_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def color_map(num_labels: int, palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Choose a colour for every class.

    Without a palette the first seven colours are Okabe and Ito's. Each further one is the colour,
    out of a regular grid, that lies farthest from all before it and from the void colour in OKLab,
    distances being the smallest over normal vision and three simulated colour-vision deficiencies.

    Args:
        num_labels: Number of classes K.
        palette: RGB triples in 0..255, at least K of them.

    Returns:
        uint8 array [K, 3].

    Raises:
        InputError: The palette has fewer than K colours.
    """
    if palette is not None:
        if len(palette) < num_labels:
            raise InputError(
                f"expected a palette of at least {num_labels} colours, got {len(palette)}"
            )
        return np.array(palette[:num_labels], dtype=np.uint8)
    levels = np.linspace(0, 255, 13).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    # Neither so dark that it looks like void nor so pale that it looks like paper.
    lightness = _perceived(grid)[:, 0, 0]
    grid = grid[(lightness > 0.35) & (lightness < 0.95)]
    colors = list(_SAFE_COLORS[:num_labels])
    seen = _perceived(grid)
    taken = _perceived(np.array([*colors, VOID_COLOR], dtype=np.uint8))
    distance = np.min([_separation(seen, point[None]) for point in taken], axis=0)
    while len(colors) < num_labels:
        best = int(distance.argmax())
        colors.append(grid[best])
        distance = np.minimum(distance, _separation(seen, seen[best : best + 1]))
    return np.array(colors, dtype=np.uint8)


def _perceived(colors: np.ndarray) -> np.ndarray:
    """Convert uint8 sRGB [N, 3] to OKLab under each kind of colour vision, [N, 4, 3]."""
    value = colors / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(linear @ vision.T, 0, 1) for vision in _VISIONS], axis=1)
    return np.cbrt(seen @ _RGB_TO_CONES.T) @ _CONES_TO_OKLAB.T


def _separation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the smallest OKLab distance over the kinds of colour vision, [N]."""
    return np.linalg.norm(first - second, axis=-1).min(axis=-1)


def colorize(label_map: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Draw a label map.

    Args:
        label_map: Integer array [H, W]; ids outside 0..K-1, such as 255, are void and black.
        colors: uint8 array [K, 3].

    Returns:
        RGB image of the label map's size.
    """
    label_map = np.asarray(label_map)
    table = np.vstack([colors, VOID_COLOR]).astype(np.uint8)
    return Image.fromarray(table[np.where(is_void(label_map, colors), len(colors), label_map)])


def overlay(
    image: Image.Image | np.ndarray,
    label_map: np.ndarray,
    colors: np.ndarray,
    alpha: float = 0.5,
) -> Image.Image:
    """Lay the class colours over an image; void pixels show the image alone.

    Args:
        image: PIL image or uint8 array [H, W, 3].
        label_map: Integer array [H, W].
        colors: uint8 array [K, 3].
        alpha: Share of the class colour in 0..1.

    Returns:
        RGB image of the image's size.

    Raises:
        InputError: Image and label map differ in size, or ``alpha`` is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"expected alpha in 0..1, got {alpha}")
    image = rgb_of_size(image, label_map)
    blended = Image.blend(image, colorize(label_map, colors), alpha)
    return Image.composite(image, blended, Image.fromarray(is_void(label_map, colors)))


def rgb_of_size(image: Image.Image | np.ndarray, label_map: np.ndarray) -> Image.Image:
    """Convert an image, uint8 [H, W, 3] or of any mode, that belongs to a label map, to RGB.

    Raises:
        InputError: Image and label map differ in size.
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    if np.shape(label_map) != (image.height, image.width):
        raise InputError(
            f"expected a label map of the image's size {[image.height, image.width]}, "
            f"got {list(np.shape(label_map))}"
        )
    return image.convert("RGB")


def is_void(label_map: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Tell for every pixel whether its id is none of the classes 0..K-1."""
    label_map = np.asarray(label_map)
    return (label_map < 0) | (label_map >= len(colors))
