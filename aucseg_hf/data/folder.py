"""Folders of image/label pairs: DIR/{train,val}/{images,labels}, and the files beside them."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.Image
from tqdm.auto import tqdm

from aucseg_hf.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
Pairs = list[tuple[Path, Path]]


def find_splits(folder: Path) -> dict[str, Pairs]:
    """Finds the image/label pairs of every split of a folder.

    Args:
        folder: Holds one sub-folder a split, each with `images` and `labels`; files pair up by
            their path below those two, without the suffix.

    Returns:
        Split name -> sorted (image, label) paths.

    Raises:
        InputError: If the folder or the layout is missing, a split is empty, or a file lacks its
            pair.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    splits = {
        child.name: _pair_up(child)
        for child in sorted(folder.iterdir())
        if (child / "images").is_dir() or (child / "labels").is_dir()
    }
    if not splits:
        raise InputError(
            f"expected {folder}/{{train,val}}/{{images,labels}}, found no such folder in {folder}"
        )
    return splits


def _pair_up(split: Path) -> Pairs:
    found = {}
    for part in ("images", "labels"):
        root = split / part
        if not root.is_dir():
            raise InputError(f"expected a folder {root} beside its counterpart, found none")
        found[part] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
                continue
            key = str(path.relative_to(root).with_suffix(""))
            if key in found[part]:
                raise InputError(f"two files with one name: {found[part][key]} and {path}")
            found[part][key] = path
    images, labels = found["images"], found["labels"]
    for key in images.keys() - labels.keys():
        raise InputError(f"image without label: {images[key]} has no {split / 'labels' / key}.png")
    for key in labels.keys() - images.keys():
        raise InputError(f"label without image: {labels[key]} has no {split / 'images' / key}.*")
    if not images:
        raise InputError(f"empty split: no images in {split / 'images'}")
    return [(images[key], labels[key]) for key in images]


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


def read_class_names(source: str | Path) -> tuple[str, ...]:
    """Reads class names from an `id2label.json`, or splits a comma-separated list of names.

    Args:
        source: Path of a JSON object {"0": name, ...} or list of names, or "road,sky,car".

    Returns:
        The names in the order of their ids.

    Raises:
        InputError: If the file is not such an object or ids are not 0..K-1.
    """
    if not Path(source).is_file():
        if isinstance(source, str) and "," in source:
            return tuple(name.strip() for name in source.split(","))
        raise InputError(f"expected a JSON file or comma-separated class names, got {source}")
    content = _read_json(Path(source))
    if isinstance(content, list):
        content = dict(enumerate(content))
    try:
        names = {int(key): str(value) for key, value in content.items()}
    except (AttributeError, ValueError):
        raise InputError(f'expected {{"0": "name", ...}} in {source}') from None
    if sorted(names) != list(range(len(names))):
        raise InputError(f"expected ids 0..{len(names) - 1} in {source}, got {sorted(names)}")
    return tuple(names[i] for i in range(len(names)))


def read_palette(source: str | Path, num_labels: int) -> tuple[tuple[int, int, int], ...]:
    """Reads display colours from a JSON list of [r, g, b], or an object of them by class id.

    Raises:
        InputError: If the file does not hold one colour of three values in 0..255 for every class.
    """
    content = _read_json(Path(source))
    if isinstance(content, dict):
        content = [content.get(str(i)) for i in range(num_labels)]
    valid = isinstance(content, list) and all(
        isinstance(color, list)
        and len(color) == 3
        and all(isinstance(value, int) and 0 <= value <= 255 for value in color)
        for color in content
    )
    if not valid or len(content) != num_labels:
        raise InputError(f"expected {num_labels} colours [r, g, b] of 0..255 in {source}")
    return tuple((r, g, b) for r, g, b in content)


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from error
