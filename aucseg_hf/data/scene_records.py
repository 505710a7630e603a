"""The embedded scenes as records: an index is stored, the scene is drawn when it is read."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset, Features
from datasets.features.features import register_feature

from aucseg_hf.data import scenes
from aucseg_hf.data.info import Benchmark, BenchmarkInfo
from aucseg_hf.errors import InputError

_CACHE_BYTES = 64 * 2**20


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
    *,
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
