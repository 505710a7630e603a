"""Image and label files that pair up: folders of pairs, and the check of every file."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.Image
from tqdm.auto import tqdm

from aucseg_hf.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
Pairs = list[tuple[Path, Path]]

_SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}


def split_name(name: str) -> str:
    """The usual name of a split: train, val or test for the ways to write them."""
    return _SPLIT_NAMES.get(name, name)


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """Usual split name -> name in the data set.

    Raises:
        InputError: If two names mean one split.
    """
    splits: dict[str, str] = {}
    for name in names:
        if split_name(name) in splits:
            raise InputError(
                f"expected one split of each kind, got {splits[split_name(name)]!r} and {name!r}"
            )
        splits[split_name(name)] = name
    return splits


def find_splits(folder: Path) -> dict[str, Pairs]:
    """Finds the image/label pairs of every split of a folder.

    Args:
        folder: Holds one sub-folder a split, each with `images` and `labels`; files pair up by
            their path below those two, without the suffix.

    Returns:
        Split name -> sorted (image, label) paths; empty where no sub-folder is a split.

    Raises:
        InputError: If a split is empty, or a file lacks its pair.
    """
    names = [
        child.name
        for child in sorted(folder.iterdir())
        if (child / "images").is_dir() or (child / "labels").is_dir()
    ]
    return {split: _pair_up(folder / name) for split, name in name_splits(names).items()}


def _pair_up(split: Path) -> Pairs:
    for part in ("images", "labels"):
        if not (split / part).is_dir():
            raise InputError(f"expected a folder {split / part} beside its counterpart, found none")
    images, labels = list_images(split / "images"), list_images(split / "labels")
    for key in images.keys() - labels.keys():
        raise InputError(f"image without label: {images[key]} has no {split / 'labels' / key}.png")
    for key in labels.keys() - images.keys():
        raise InputError(f"label without image: {labels[key]} has no {split / 'images' / key}.*")
    if not images:
        raise InputError(f"empty split: no images in {split / 'images'}")
    return [(images[key], labels[key]) for key in images]


def list_images(folder: Path, ending: str | None = None) -> dict[str, Path]:
    """Lists the images below a folder by their path there.

    Args:
        folder: Where to look, in sub-folders too; hidden files are left out.
        ending: How their names end, by default in any of `IMAGE_SUFFIXES`.

    Returns:
        Path below the folder without the ending -> file, sorted.

    Raises:
        InputError: If two files differ in their suffix only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if ending is not None and not path.name.endswith(ending):
            continue
        key = path.relative_to(folder).as_posix()[: -len(ending or path.suffix)]
        if key in found:
            raise InputError(f"two files with one name: {found[key]} and {path}")
        found[key] = path
    return found


def path_inside(folder: Path, name: str, source: str) -> Path:
    """The file that a list or table beside the images names.

    Args:
        folder: Where relative names start.
        name: The name as it is written there.
        source: Who names it, for the error message.

    Raises:
        InputError: If the file lies outside the folder or does not exist.
    """
    # Without following links: a folder may be put together out of links to files elsewhere.
    path = Path(os.path.abspath(folder / name))
    if not path.is_relative_to(os.path.abspath(folder)):
        raise InputError(f"{source} names {name!r}: expected a file inside {folder}")
    if not path.is_file():
        raise InputError(f"{source} names {name!r}: no such file {path}")
    return path


def check_pairs(pairs: Pairs, description: str = "checking files") -> None:
    """Opens the header and looks at the end of every file, so that training does not die midway.

    Args:
        pairs: (image, label) paths.
        description: Text of the progress bar.

    Raises:
        InputError: If a file cannot be read or is truncated, or an image and its label differ in
            size.
    """
    with ThreadPoolExecutor() as pool:
        for _ in tqdm(
            pool.map(_check_pair, pairs), total=len(pairs), desc=description, leave=False
        ):
            pass


def _check_pair(pair: tuple[Path, Path]) -> None:
    sizes = [_checked_size(path) for path in pair]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"sizes differ: image {pair[0]} is {sizes[0][0]}x{sizes[0][1]}, "
            f"label {pair[1]} is {sizes[1][0]}x{sizes[1][1]}"
        )


def _checked_size(path: Path) -> tuple[int, int]:
    try:
        with PIL.Image.open(path) as image:
            # 0x0112 is the EXIF orientation; values 5 to 8 swap width and height on display.
            size = image.size[::-1] if image.getexif().get(0x0112, 1) >= 5 else image.size
            if not _has_end_marker(path, image.format):
                image.load()
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return size


def _has_end_marker(path: Path, file_format: str | None) -> bool:
    """Whether a JPEG or PNG ends as a whole file does; false sends the file to a full decode."""
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}.get(file_format or "")
    if marker is None:
        return False
    with path.open("rb") as file:
        file.seek(-len(marker), 2)
        return file.read() == marker
