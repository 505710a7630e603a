"""Repeat-factor sampling: images with rare classes come round more often in an epoch."""

import math
from typing import Any

import numpy as np
import torch

from aucseg_hf.data.dataset import SegmentationDataset
from aucseg_hf.errors import InputError


def repeat_factors(presence: np.ndarray, threshold: float) -> np.ndarray:
    """How often each image is to be seen for each time an image of common classes is (LVIS).

    A class that is in a share f of the images has the factor r = max(1, sqrt(threshold / f)); an
    image has the largest factor of its classes, and 1 where it has none.

    Args:
        presence: bool [N, K], whether each image holds each class
            (`ClassStatistics.presence`).
        threshold: Share of the images below which a class is rare.

    Returns:
        float64 [N], each at least 1.

    Raises:
        InputError: If the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(f"expected 0 < repeat threshold <= 1, got {threshold}")
    frequency = presence.mean(axis=0)
    # A class that never occurs is in no image: its factor is never looked at.
    factors = np.sqrt(np.maximum(1, threshold / np.where(frequency > 0, frequency, 1)))
    return np.where(presence, factors, 1).max(axis=1, initial=1)


def repeated_indices(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Repeats every index as its factor says, with a sum that never varies.

    Factor r becomes floor(r) or ceil(r) repetitions, r in the mean (a little more where hardly any
    image has a fraction, for the length is rounded up): the fractions are laid end to
    end in a random order and cut at every whole number from a random start (systematic sampling),
    so that the epoch is ceil(sum of factors) long whatever is drawn.

    Args:
        factors: float64 [N], each at least 1.
        generator: Source of the random rounding.

    Returns:
        int64 [ceil(sum of factors)], ascending; every index at least once.
    """
    whole = np.floor(factors).astype(np.int64)
    left = epoch_length(factors) - int(whole.sum())
    order = generator.permutation(len(factors))
    ends = np.cumsum((factors - whole)[order])
    if left:
        # To the next whole number: rounding up the epoch's length makes fractions a little larger.
        ends *= left / ends[-1]
        ends[-1] = left
        cuts = np.arange(left) + generator.random()
        drawn = order[np.searchsorted(ends, cuts, side="right")]
        np.add.at(whole, drawn, 1)
    return np.repeat(np.arange(len(factors)), whole)


def epoch_length(factors: np.ndarray) -> int:
    """Images of one epoch: the sum of the factors, rounded up."""
    # The sum of many factors is exact to about 1e-9.
    return math.ceil(factors.sum() - 1e-6)


class RepeatFactorDataset(torch.utils.data.Dataset):
    """A `SegmentationDataset` in which images of rare classes come round more often.

    Position p of an epoch is another image in another epoch, keyed by (seed, epoch); every
    repetition in one epoch has an augmentation of its own. Any sampler works on it, and resuming
    repeats the order.

    Args:
        dataset: What to draw from.
        factors: float64 [N], as `repeat_factors` computes them.
        seed: Together with the epoch it decides the rounding.

    Attributes:
        image_mean: As of the data set.
        image_std: As of the data set.

    Raises:
        InputError: If there is not one factor an image.
    """

    def __init__(self, dataset: SegmentationDataset, factors: np.ndarray, seed: int = 0) -> None:
        if len(factors) != len(dataset):
            raise InputError(f"expected {len(dataset)} repeat factors, got {len(factors)}")
        self.dataset = dataset
        self.image_mean, self.image_std = dataset.image_mean, dataset.image_std
        self._factors = factors
        self._seed = seed
        # Shared with worker processes; each draws the indices of an epoch when it first needs them.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._drawn: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return epoch_length(self._factors)

    @property
    def num_corrupt(self) -> int:
        """As of the data set."""
        return self.dataset.num_corrupt

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which changes repetitions and augmentation."""
        self._epoch.fill_(epoch)
        self.dataset.set_epoch(epoch)

    @property
    def indices(self) -> np.ndarray:
        """int64 [len(self)], the image at each position of this epoch."""
        epoch = int(self._epoch)
        if self._drawn[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._drawn = (epoch, repeated_indices(self._factors, generator))
        return self._drawn[1]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The example at one position of this epoch, as `SegmentationDataset` gives it."""
        index = int(self.indices[position])
        repetition = position - int(np.searchsorted(self.indices, index))
        return self.dataset.example(index, *([repetition] if repetition else []))
