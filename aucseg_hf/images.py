"""Images as they come: files, arrays and PIL images of any mode, upright and in RGB."""

from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from aucseg_hf.errors import InputError

ImageSource = PIL.Image.Image | np.ndarray | str | Path


def read_image(source: ImageSource) -> PIL.Image.Image:
    """Gives an upright RGB image.

    A rotation noted in the file's EXIF data is applied, transparency dropped, and 16-bit grey
    reduced to its upper eight bits.

    Args:
        source: PIL image of any mode, path of a file, or uint8 array [H, W], [H, W, 3] or
            [H, W, 4].

    Raises:
        InputError: If the file cannot be read, or the array has another type or shape.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source).convert("RGB")
    if isinstance(source, PIL.Image.Image):
        return _upright_rgb(source)
    if not Path(source).is_file():
        raise InputError(f"no such image: {source}")
    try:
        with PIL.Image.open(source) as image:
            image.load()
            return _upright_rgb(image)
    # Pillow raises SyntaxError for some broken PNG files.
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {source}: {error}") from error


def _from_array(array: np.ndarray) -> PIL.Image.Image:
    channels = array.shape[2] if array.ndim == 3 else None
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (None, 3, 4):
        raise InputError(
            "expected a uint8 array [H, W], [H, W, 3] or [H, W, 4] as image, "
            f"got {array.dtype} {list(array.shape)}"
        )
    return PIL.Image.fromarray(array)


def _upright_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:
        image = PIL.ImageOps.exif_transpose(image)
    return to_rgb(image)


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Gives an RGB image of one of any mode; of 16-bit levels the high byte is kept."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255: every 16-bit image would come out white.
        levels = np.asarray(image).astype(np.int64) >> 8
        image = PIL.Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
