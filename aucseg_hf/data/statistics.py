"""ClassStatistics: how long the tail of a data set is, from one pass over its labels."""

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aucseg_hf.data.counting import count_classes
from aucseg_hf.data.groups import Groups, split_by_share
from aucseg_hf.data.labels import VOID, LabelRule
from aucseg_hf.errors import InputError


@dataclass(frozen=True)
class ClassStatistics:
    """Pixels and images per class, and the head/middle/tail split they imply.

    Attributes:
        pixel_counts: int64 [K], labelled pixels of each class.
        image_counts: int64 [K], images that contain each class.
        num_images: Number of images.
        groups: {"head", "middle", "tail"} -> class ids, ascending.
        presence: bool [N, K], whether each record's label holds each class, or None where only
            the sums are known.
    """

    pixel_counts: np.ndarray
    image_counts: np.ndarray
    num_images: int
    groups: Groups
    presence: np.ndarray | None = None

    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Mapping[str, Any]],
        num_labels: int,
        ignore_index: int = VOID,
        tail_classes: Sequence[int] | None = None,
        progress: bool = False,
        skip_corrupt: bool = False,
        max_images: int | None = None,
        label_rule: LabelRule | None = None,
    ) -> "ClassStatistics":
        """Counts the classes of a data set in one streaming pass over its label images.

        Args:
            dataset: Records with a "label" image, such as a split of `load_benchmark` or a
                `datasets.IterableDataset`.
            num_labels: Number of classes K.
            ignore_index: Raw id of pixels without a class.
            tail_classes: The tail, where the pixel-share rule (`split_by_share`) is not wanted.
            progress: Show a progress bar.
            skip_corrupt: Leave out labels that do not decode instead of raising; `num_images`
                counts the others.
            max_images: Count only the first so many records.
            label_rule: Turns raw label images into class ids, in place of `num_labels` and
                `ignore_index`, where they hold something else.

        Raises:
            InputError: If a label cannot be read or holds an id outside the range, or
                `tail_classes` a class that does not exist.
        """
        rule = label_rule or LabelRule(num_labels, ignore_index)
        counts = count_classes(dataset, rule, max_images, progress, skip_corrupt)
        return cls(
            counts.pixel_counts,
            counts.presence.sum(axis=0, dtype=np.int64),
            counts.num_images,
            split_by_share(counts.pixel_counts, tail_classes),
            counts.presence,
        )

    @property
    def shares(self) -> np.ndarray:
        """float64 [K], share of each class in the labelled pixels."""
        return self.pixel_counts / max(1, self.pixel_counts.sum())

    @property
    def tail_classes(self) -> list[int]:
        """Ids of the tail classes."""
        return self.groups["tail"]

    @property
    def imbalance_ratio(self) -> float:
        """Mean of pixels_a / pixels_b over a in the head and b outside it (r_m in the paper).

        Classes without a pixel are left out; NaN where either side is empty.
        """
        head = [c for c in self.groups["head"] if self.pixel_counts[c]]
        rest = [c for c in self.groups["middle"] + self.groups["tail"] if self.pixel_counts[c]]
        if not head or not rest:
            return math.nan
        return float(np.mean(self.pixel_counts[head][:, None] / self.pixel_counts[rest][None, :]))

    def batch_size_for(self, delta: float) -> int:
        """Smallest batch in which every class appears with probability at least 1 - delta.

        By the union bound over K classes that occur, B >= log(delta / K) / log(1 - min_i p_i),
        where p_i is the share of images with class i.

        Raises:
            InputError: If delta is not between 0 and 1.
        """
        if not 0 < delta < 1:
            raise InputError(f"expected 0 < delta < 1, got {delta}")
        present = self.image_counts[self.image_counts > 0]
        if not len(present):
            raise InputError("expected at least one class with a labelled pixel, found none")
        rarest = present.min() / self.num_images
        if rarest == 1:
            return 1
        return math.ceil(math.log(delta / len(present)) / math.log1p(-rarest))

    def missing_probability(self, batch_size: int) -> np.ndarray:
        """Probability that a class is in none of `batch_size` images drawn at random.

        (1 - p_c) ** B, where p_c is the share of images with class c; the sum over the classes is
        the mean number of classes that a batch lacks.

        Returns:
            float64 [K].
        """
        return (1 - self.image_counts / max(1, self.num_images)) ** batch_size

    @property
    def gini(self) -> float:
        """Gini coefficient of the pixel counts: 0 if all classes are equal, near 1 if one has all.

        sum_{i, j} |x_i - x_j| / (2 K sum_i x_i), over all K classes; NaN without a pixel.
        """
        counts = np.sort(self.pixel_counts.astype(np.float64))
        if not counts.any():
            return math.nan
        ranks = np.arange(1, len(counts) + 1)
        return float((2 * ranks - len(counts) - 1) @ counts / (len(counts) * counts.sum()))

    def with_groups(self, groups: Groups) -> "ClassStatistics":
        """The same counts under another split, as the functions of `data.groups` make them."""
        return replace(self, groups=groups)

    def save(self, path: str | Path, **more: Any) -> None:
        """Writes the statistics as JSON.

        Args:
            path: The file.
            **more: What else the file is to hold.
        """
        content = {
            "num_images": self.num_images,
            "pixel_counts": self.pixel_counts.tolist(),
            "image_counts": self.image_counts.tolist(),
            "groups": self.groups,
            **more,
        }
        if self.presence is not None:
            content["presence"] = _pack(self.presence)
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "ClassStatistics":
        """Reads what `save` wrote.

        Raises:
            InputError: If the file cannot be read or is none of `save`.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            num_labels = len(content["pixel_counts"])
            packed = content.get("presence")
            return cls(
                np.asarray(content["pixel_counts"], np.int64),
                np.asarray(content["image_counts"], np.int64),
                content["num_images"],
                content["groups"],
                None if packed is None else _unpack(packed, num_labels),
            )
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputError(f"cannot read class statistics from {path}: {error}") from error


def _pack(presence: np.ndarray) -> dict[str, Any]:
    """A bit an image and class, compressed: a few MB for 100,000 images of 150 classes."""
    bits = zlib.compress(np.packbits(presence).tobytes())
    return {"num_rows": len(presence), "bits": base64.b64encode(bits).decode("ascii")}


def _unpack(packed: Mapping[str, Any], num_labels: int) -> np.ndarray:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(packed["bits"])), np.uint8)
    shape = (packed["num_rows"], num_labels)
    return np.unpackbits(bits, count=math.prod(shape)).astype(bool).reshape(shape)
