"""ClassStatistics: how long the tail of a data set is, from one pass over its labels."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aucseg_hf.data.counting import count_classes
from aucseg_hf.data.labels import VOID, LabelRule
from aucseg_hf.errors import InputError

HEAD_SHARE = 0.019
TAIL_SHARE = 0.0053


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
    groups: dict[str, list[int]]
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

    def save(self, path: str | Path) -> None:
        """Writes the statistics as JSON."""
        content = {
            "num_images": self.num_images,
            "pixel_counts": self.pixel_counts.tolist(),
            "image_counts": self.image_counts.tolist(),
            "groups": self.groups,
        }
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "ClassStatistics":
        """Reads what `save` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(
            np.asarray(content["pixel_counts"], np.int64),
            np.asarray(content["image_counts"], np.int64),
            content["num_images"],
            content["groups"],
        )


def split_by_share(
    pixel_counts: np.ndarray, tail_classes: Sequence[int] | None = None
) -> dict[str, list[int]]:
    """Splits classes into head (>= 1.9 % of the labelled pixels), tail (<= 0.53 %) and middle.

    The two thresholds reproduce the published groups of ADE20K and Cityscapes.

    Args:
        pixel_counts: int64 [K].
        tail_classes: When given, exactly these are the tail, and the head leaves them out.

    Raises:
        InputError: If a given tail class does not exist.
    """
    num_labels = len(pixel_counts)
    shares = pixel_counts / max(1, pixel_counts.sum())
    if tail_classes is None:
        tail = [c for c in range(num_labels) if shares[c] <= TAIL_SHARE]
    else:
        tail = sorted({int(c) for c in tail_classes})
        missing = [c for c in tail if not 0 <= c < num_labels]
        if missing:
            raise InputError(
                f"tail class {missing[0]} does not exist: expected 0..{num_labels - 1}"
            )
    head = [c for c in range(num_labels) if shares[c] >= HEAD_SHARE and c not in tail]
    middle = [c for c in range(num_labels) if c not in head and c not in tail]
    return {"head": head, "middle": middle, "tail": tail}
