"""load_benchmark: the embedded scenes, or a folder of pairs, as a DatasetDict with class names."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Image
from datasets.features.features import register_feature

from aucseg_hf.data import scenes
from aucseg_hf.data.folder import Pairs, check_pairs, find_splits, read_class_names, read_palette
from aucseg_hf.data.labels import VOID, LabelRule
from aucseg_hf.errors import InputError

_CACHE_BYTES = 64 * 2**20

Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class BenchmarkInfo:
    """What a data set says about its classes.

    Attributes:
        name: "scenes", or the folder's name.
        class_names: Names in the order of their ids.
        palette: One display colour a class, or None for the default colours.
        ignore_index: Raw id of pixels without a class.
    """

    name: str
    class_names: tuple[str, ...]
    palette: Palette | None = None
    ignore_index: int = VOID

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by id, as transformers configurations hold them."""
        return dict(enumerate(self.class_names))

    @property
    def label_rule(self) -> LabelRule:
        """How raw label images of this data set become class ids."""
        return LabelRule(self.num_labels, self.ignore_index)

    def class_id(self, name_or_id: str | int) -> int:
        """Resolves a class given by name or id.

        Raises:
            InputError: If there is no such class.
        """
        if str(name_or_id) in self.class_names:
            return self.class_names.index(str(name_or_id))
        if str(name_or_id).isdecimal() and int(name_or_id) < self.num_labels:
            return int(name_or_id)
        raise InputError(
            f"no class {name_or_id!r} in {self.name}: expected an id in 0..{self.num_labels - 1} "
            f"or one of {list(self.class_names)}"
        )


class Benchmark(DatasetDict):
    """A `DatasetDict` of {"image", "label"} records that knows its classes.

    Attributes:
        info: Class names, ignore index and colours.
        files: The (image, label) paths of each split; empty when nothing lies on disk.
    """

    def __init__(
        self, splits: dict[str, Dataset], info: BenchmarkInfo, files: dict[str, Pairs]
    ) -> None:
        super().__init__(splits)
        self.info = info
        self.files = files

    def check_files(self) -> None:
        """Checks every file on disk (`folder.check_pairs`).

        Raises:
            InputError: If a file is unreadable or truncated, or an image and its label differ in
                size.
        """
        for split, pairs in self.files.items():
            check_pairs(pairs, f"checking {split} files")


@dataclass(frozen=True)
class Scene:
    """A `datasets` feature that stores an index and draws the scene when it is read."""

    part: str
    split: str
    seed: int
    size: tuple[int, int]

    dtype: ClassVar[str] = "PIL.Image.Image"
    pa_type: ClassVar[Any] = pa.int32()
    _type: str = field(default="Scene", init=False, repr=False)

    def __call__(self) -> Any:
        """The arrow type of the stored index."""
        return self.pa_type

    def encode_example(self, value: int) -> int:
        """An index is stored as it is."""
        return value

    def decode_example(self, value: int, token_per_repo_id: dict | None = None) -> PIL.Image.Image:
        """Draws the scene of the stored index."""
        image, label = _drawer(tuple(self.size))(value, self.split, self.seed)
        return PIL.Image.fromarray(image if self.part == "image" else label)


with warnings.catch_warnings():
    # datasets calls registration experimental; without it a saved scenes data set would not load.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(Scene, "Scene")


@lru_cache(maxsize=8)
def _drawer(size: tuple[int, int]) -> Callable[[int, str, int], tuple[np.ndarray, np.ndarray]]:
    """Draws scenes of one size and keeps the latest, so that a small benchmark is drawn once."""
    bytes_per_scene = 4 * size[0] * size[1]

    @lru_cache(maxsize=max(2, _CACHE_BYTES // bytes_per_scene))
    def draw(index: int, split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return scenes.draw_scene(index, split=split, seed=seed, size=size)

    return draw


def load_scenes(
    size: int | tuple[int, int] = 128,
    seed: int = 0,
    num_train: int = scenes.SPLIT_SIZES["train"],
    num_val: int = scenes.SPLIT_SIZES["val"],
) -> Benchmark:
    """The embedded long-tail benchmark; images are drawn when they are read, none is on disk.

    Args:
        size: Side, or (height, width), in pixels.
        seed: Another seed gives other scenes.
        num_train: Number of training scenes.
        num_val: Number of validation scenes.
    """
    shape = (size, size) if isinstance(size, int) else tuple(size)
    splits = {}
    for split, count in (("train", num_train), ("val", num_val)):
        if count < 1:
            raise InputError(f"expected at least one scene in split {split}, got {count}")
        features = Features({part: Scene(part, split, seed, shape) for part in ("image", "label")})
        indices = list(range(count))
        splits[split] = Dataset.from_dict({"image": indices, "label": indices}, features=features)
    return Benchmark(splits, BenchmarkInfo("scenes", scenes.CLASS_NAMES, scenes.PALETTE), {})


def load_folder(
    path: str | Path,
    id2label: str | Path | None = None,
    palette: str | Path | None = None,
    ignore_index: int = VOID,
) -> Benchmark:
    """A folder of pairs, DIR/{train,val}/{images,labels}.

    Args:
        path: The folder.
        id2label: Class names, as `read_class_names` takes them; by default `id2label.json` in the
            folder.
        palette: Colours, as `read_palette` takes them; by default `palette.json` in the folder, if
            any.
        ignore_index: Raw id of pixels without a class.

    Raises:
        InputError: If the folder, its layout or one of the files beside it cannot be used.
    """
    folder = Path(path)
    files = find_splits(folder)
    if id2label is None:
        id2label = folder / "id2label.json"
        if not id2label.is_file():
            raise InputError(
                f"no class names: expected {id2label}, or give them with the id2label option"
            )
    class_names = read_class_names(id2label)
    if palette is None and (folder / "palette.json").is_file():
        palette = folder / "palette.json"
    colors = read_palette(palette, len(class_names)) if palette is not None else None
    features = Features({"image": Image(), "label": Image()})
    splits = {
        split: Dataset.from_dict(
            {
                "image": [str(image) for image, _ in pairs],
                "label": [str(label) for _, label in pairs],
            },
            features=features,
        )
        for split, pairs in files.items()
    }
    info = BenchmarkInfo(folder.resolve().name, class_names, colors, ignore_index)
    return Benchmark(splits, info, files)


def load_benchmark(
    name_or_path: str | Path, split: str | None = None, **options: Any
) -> Benchmark | Dataset:
    """Loads a benchmark by name, or any folder of image/label pairs.

    Args:
        name_or_path: "scenes", or a folder DIR/{train,val}/{images,labels}.
        split: Return only this split, as a `datasets.Dataset`.
        **options: Those of `load_scenes` (size, seed, ...) or `load_folder` (id2label, palette,
            ...).

    Returns:
        A `datasets.DatasetDict` of {"image", "label"} records whose `info` holds class names,
        ignore index and colours.

    Raises:
        InputError: If there is no such benchmark, folder or split.

    Example:
        >>> benchmark = load_benchmark("scenes", size=64)
        >>> benchmark["train"][0]["image"].size
        (64, 64)
    """
    if str(name_or_path) == "scenes":
        benchmark = load_scenes(**options)
    else:
        benchmark = load_folder(name_or_path, **options)
    if split is None:
        return benchmark
    if split not in benchmark:
        raise InputError(f"no split {split!r} in {name_or_path}: expected one of {list(benchmark)}")
    return benchmark[split]
