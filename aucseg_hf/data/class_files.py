"""The files that say what the classes of a user's data are: id2label.json and palette.json."""

import json
from pathlib import Path

from aucseg_hf.data.info import BenchmarkInfo
from aucseg_hf.data.labels import VOID, Color, Palette
from aucseg_hf.errors import InputError


def read_info(
    name: str,
    folder: Path | None,
    id2label: str | Path | None,
    palette: str | Path | None,
    ignore_index: int = VOID,
    reduce_labels: bool = False,
) -> BenchmarkInfo:
    """Collects what the user says about the classes, in options or in files beside the data.

    Args:
        name: What to call the data set.
        folder: Where `id2label.json` and `palette.json` may lie; None if nowhere.
        id2label: Class names, as `read_class_names` takes them, instead of the file.
        palette: Colours, as `read_palette` takes them, instead of the file, if any.
        ignore_index: Raw id of pixels without a class.
        reduce_labels: Raw id 0 is void and 1..K are the classes.

    Raises:
        InputError: If there are no class names or a file cannot be used.
    """
    beside = {
        file: folder / file
        for file in ("id2label.json", "palette.json")
        if folder is not None and (folder / file).is_file()
    }
    id2label = id2label or beside.get("id2label.json")
    if id2label is None:
        where = f"expected {folder / 'id2label.json'}, or" if folder else "no such folder here, so"
        raise InputError(f"no class names of {name}: {where} give them with the id2label option")
    class_names = read_class_names(id2label)
    colors, void_color = None, None
    palette = palette or beside.get("palette.json")
    if palette is not None:
        colors, void_color = read_palette(palette, len(class_names))
    return BenchmarkInfo(
        name,
        class_names,
        colors,
        ignore_index,
        reduce_labels=reduce_labels,
        void_color=void_color,
    )


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


def read_palette(source: str | Path, num_labels: int) -> tuple[Palette, Color | None]:
    """Reads the colours of the classes, for display and for label images of colours.

    Args:
        source: Path of a JSON list of [r, g, b] in the order of the ids, or of an object of them
            by id, {"0": [r, g, b], ..., "void": [r, g, b]}, where void may be missing.
        num_labels: Number of classes K.

    Returns:
        The colours by class, and that of void or None.

    Raises:
        InputError: If the file does not hold one colour of three values in 0..255 for every class.
    """
    content = _read_json(Path(source))
    if isinstance(content, list):
        content = {str(i): color for i, color in enumerate(content)}
    expected = {str(i) for i in range(num_labels)}
    valid = (
        isinstance(content, dict)
        and content.keys() - {"void"} == expected
        and all(_is_color(color) for color in content.values())
    )
    if not valid:
        raise InputError(f"expected {num_labels} colours [r, g, b] of 0..255 in {source}")
    colors = {key: tuple(color) for key, color in content.items()}
    return tuple(colors[str(i)] for i in range(num_labels)), colors.get("void")


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(level, int) and 0 <= level <= 255 for level in value)
    )


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from error
