"""Pixel counts of every image of an evaluation, in sparse form."""

from array import array

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class ImageCounts:
    """Hit, labelled and predicted pixels of every class, image by image.

    They are what the measures of single images and the bootstrap over images
    (:mod:`aucseg_hf.bootstrap`) are computed from. Only classes that an image contains or that are
    predicted in it are stored, 16 bytes each: 2,000 images with 20 such classes take 640 kB.

    Args:
        num_labels: Number of classes K.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self._rows = array("i")  # class, hit, labelled, predicted; image after image
        self._lengths = array("i")  # rows of each image

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def nbytes(self) -> int:
        """Bytes the counts take."""
        return sum(part.itemsize * len(part) for part in (self._rows, self._lengths))

    def append(self, counts: Tensor) -> None:
        """Add one image.

        Args:
            counts: Integer tensor [3, K] of hit, labelled and predicted pixels.
        """
        counts = counts.cpu().int()
        classes = counts[1:].amax(dim=0).nonzero().flatten()
        rows = torch.cat([classes.int()[None], counts[:, classes]]).t().contiguous()
        self._rows.frombytes(rows.numpy().tobytes())
        self._lengths.append(len(classes))

    def merge(self, other: "ImageCounts") -> None:
        """Append the images of ``other``."""
        self._rows.extend(other._rows)
        self._lengths.extend(other._lengths)

    def all_gather(self, process_group: dist.ProcessGroup | None = None) -> None:
        """Give every rank the images of all ranks, in the order of the ranks."""
        parts = [None] * dist.get_world_size(process_group)
        dist.all_gather_object(parts, (self._rows, self._lengths), group=process_group)
        self._rows, self._lengths = array("i"), array("i")
        for rows, lengths in parts:
            self._rows.extend(rows)
            self._lengths.extend(lengths)

    def dense(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the counts of images ``start`` to ``stop`` as an int64 array [N, 3, K]."""
        ends = np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])
        lengths = np.array(self._lengths[start:stop], dtype=np.int64)
        first = ends[min(start, len(self))]
        rows = np.array(self._rows[4 * first : 4 * (first + lengths.sum())]).reshape(-1, 4)
        counts = np.zeros((len(lengths), 3, self.num_labels), dtype=np.int64)
        counts[np.repeat(np.arange(len(lengths)), lengths), :, rows[:, 0]] = rows[:, 1:]
        return counts

    def mean_iou(self) -> np.ndarray:
        """Compute the mean IoU of every image over the classes that its labels contain.

        Returns:
            float64 array [N], NaN for images without a labelled pixel.
        """
        image = np.repeat(np.arange(len(self)), self._lengths)
        _, hit, labelled, predicted = np.array(self._rows, dtype=np.int64).reshape(-1, 4).T
        # A wrongly predicted class costs its pixels in the classes that they belong to.
        iou = np.where(labelled > 0, hit / np.maximum(labelled + predicted - hit, 1), 0)
        classes = np.bincount(image, labelled > 0, minlength=len(self))
        with np.errstate(invalid="ignore"):
            return np.bincount(image, iou, minlength=len(self)) / classes
