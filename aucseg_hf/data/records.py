"""Records of image files: kept undecoded, decoded one at a time, and named when they do not."""

from collections.abc import Mapping
from typing import Any, TypeVar

import PIL.Image
from datasets import Image

from aucseg_hf.errors import InputError

Records = TypeVar("Records")


class CorruptFileError(InputError):
    """Raised when a file does not decode; the message names it."""


def undecoded(records: Records) -> Records:
    """The same records with image files left as {"path", "bytes"}, for `decode`.

    Args:
        records: A `datasets` data set, or any other sequence or stream, which stays as it is.
    """
    for column, feature in (getattr(records, "features", None) or {}).items():
        if isinstance(feature, Image):
            records = records.cast_column(column, Image(decode=False))
    return records


def decode(value: PIL.Image.Image | Mapping[str, Any], otherwise: str) -> tuple[Any, str]:
    """Opens one image of an undecoded record, upright as its EXIF data say.

    Args:
        value: {"path", "bytes"}, or an image.
        otherwise: The name of an image that is no file.

    Returns:
        The image and the path of its file, or `otherwise`.

    Raises:
        CorruptFileError: If the file cannot be read or does not decode.
    """
    if not isinstance(value, Mapping):
        return value, getattr(value, "filename", "") or otherwise
    name = value["path"] or otherwise
    try:
        return Image().decode_example(value), name
    except (OSError, SyntaxError) as error:
        raise CorruptFileError(f"cannot read {name}: {error}") from error
