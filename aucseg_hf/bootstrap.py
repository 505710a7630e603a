"""Confidence intervals and paired comparisons of IoU by bootstrap over images."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from aucseg_hf.errors import InputError
from aucseg_hf.image_counts import ImageCounts

_BLOCK_IMAGES = 1024
_BLOCK_RESAMPLES = 128

Groups = Mapping[str, Iterable[int]]


def resampled_iou(
    images: ImageCounts,
    groups: Groups | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Compute IoU on data sets drawn anew: as many images, with replacement (Efron 1979).

    The pixel counts of the drawn images are summed before IoU is taken, as for the data set itself.
    Memory does not grow with ``resamples`` times images.

    Args:
        images: Counts of every image, such as ``SegmentationMetrics.images``.
        groups: Class ids by group name.
        resamples: Number R of data sets drawn.
        seed: Decides the draw, the same for any counts of as many images.

    Returns:
        ``mean_iou`` and ``mean_iou_<group>``, float64 arrays [R], and ``per_category_iou``,
        [R, K]; NaN where a drawn data set contains no such class.

    Raises:
        InputError: There are no images, or ``resamples`` is below 1.
    """
    if not len(images) or resamples < 1:
        raise InputError(
            f"expected at least one image and one resample, got {len(images)} and {resamples}"
        )
    blocks = [
        class_iou(_drawn_totals(images, weights))
        for weights in _draws(len(images), resamples, seed)
    ]
    return iou_measures(np.concatenate(blocks), groups)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Compute IoU [..., K] from hit, labelled and predicted pixels [..., 3, K]."""
    hit, labelled, predicted = np.moveaxis(np.asarray(counts, dtype=np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        return hit / (labelled + predicted - hit)


def iou_measures(iou: np.ndarray, groups: Groups | None = None) -> dict[str, np.ndarray]:
    """Name IoU [..., K] and its means over all classes and over groups, without absent classes."""
    measures = {"mean_iou": _nanmean(iou)}
    for name, ids in (groups or {}).items():
        measures[f"mean_iou_{name}"] = _nanmean(iou[..., list(ids)])
    return {**measures, "per_category_iou": iou}


def confidence_intervals(
    images: ImageCounts,
    groups: Groups | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Compute percentile intervals of the IoU measures by bootstrap over images.

    Args:
        images: Counts of every image.
        groups: Class ids by group name.
        confidence: Share of the resamples inside the interval, between 0 and 1.
        resamples: Number of resamples.
        seed: Decides the draw.

    Returns:
        Low and high end by the names of :func:`resampled_iou`: float64 arrays [2], or [2, K] for
        ``per_category_iou``. Resamples where a measure is NaN are left out of its interval.

    Raises:
        InputError: As :func:`resampled_iou`, or ``confidence`` is not between 0 and 1.
    """
    ends = _tails(confidence)
    samples = resampled_iou(images, groups, resamples=resamples, seed=seed)
    return {name: _nanquantile(values, ends) for name, values in samples.items()}


@dataclass(frozen=True)
class Difference:
    """How much larger a measure is for the second of two models.

    Attributes:
        value: Difference on the data set, float64 [] or [K].
        interval: Low and high end of its percentile interval, float64 [2] or [2, K].
        p_value: Two-sided p-value of "no difference", float64 [] or [K]; NaN where undefined.
    """

    value: np.ndarray
    interval: np.ndarray
    p_value: np.ndarray


def paired_bootstrap(
    first: ImageCounts,
    second: ImageCounts,
    groups: Groups | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two models on the same images, drawn alike for both.

    With d the difference on a drawn data set and R resamples,
    p = min(1, 2 * min(1 + #(d <= 0), 1 + #(d >= 0)) / (R + 1)), so no p-value is below 2 / (R + 1).
    The p-values are not corrected for their number.

    Args:
        first: Counts of the first model.
        second: Counts of the second model on the same images in the same order.
        groups: Class ids by group name.
        confidence: Coverage of the intervals, between 0 and 1.
        resamples: Number of resamples.
        seed: Decides the draw.

    Returns:
        Second minus first by the names of :func:`resampled_iou`.

    Raises:
        InputError: As :func:`confidence_intervals`, or the two were not measured on the same
            images.
    """
    _check_same_images(first, second)
    ends = _tails(confidence)
    whole, drawn = [], []
    for images in (first, second):
        iou = class_iou(_drawn_totals(images, np.ones((1, len(images)))))[0]
        whole.append(iou_measures(iou, groups))
        drawn.append(resampled_iou(images, groups, resamples=resamples, seed=seed))
    result = {}
    for name in whole[0]:
        sample = drawn[1][name] - drawn[0][name]
        one_sided = 1 + np.minimum((sample <= 0).sum(axis=0), (sample >= 0).sum(axis=0))
        known = (~np.isnan(sample)).sum(axis=0)
        p_value = np.where(known, np.minimum(1, 2 * one_sided / (known + 1)), np.nan)
        value = whole[1][name] - whole[0][name]
        result[name] = Difference(value, _nanquantile(sample, ends), p_value)
    return result


def _draws(num_images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, float64 [R', N] for blocks of R' resamples."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK_RESAMPLES):
        rows = min(_BLOCK_RESAMPLES, resamples - start)
        drawn = rng.integers(num_images, size=(rows, num_images))
        drawn += np.arange(rows)[:, None] * num_images
        counts = np.bincount(drawn.ravel(), minlength=rows * num_images)
        yield counts.reshape(rows, num_images).astype(np.float64)


def _drawn_totals(images: ImageCounts, weights: np.ndarray) -> np.ndarray:
    """Sum the counts of the images weighted by [R, N], float64 [R, 3, K], exact below 2**53."""
    totals = np.zeros((len(weights), 3 * images.num_labels))
    for start in range(0, len(images), _BLOCK_IMAGES):
        stop = start + _BLOCK_IMAGES
        block = images.dense(start, stop).reshape(-1, totals.shape[1]).astype(np.float64)
        totals += weights[:, start:stop] @ block
    return totals.reshape(len(weights), 3, images.num_labels)


def _check_same_images(first: ImageCounts, second: ImageCounts) -> None:
    if first.num_labels != second.num_labels or len(first) != len(second):
        raise InputError(
            f"expected two models measured on the same images, got {len(first)} images of "
            f"{first.num_labels} classes and {len(second)} of {second.num_labels}"
        )
    for start in range(0, len(first), _BLOCK_IMAGES):
        stop = start + _BLOCK_IMAGES
        labelled = [images.dense(start, stop)[:, 1] for images in (first, second)]
        unequal = (labelled[0] != labelled[1]).any(axis=1).nonzero()[0]
        if len(unequal):
            raise InputError(
                "expected two models measured on the same images in the same order, but the labels "
                f"of image {start + unequal[0]} differ"
            )


def _tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise InputError(f"expected 0 < confidence < 1, got {confidence}")
    return (1 - confidence) / 2, (1 + confidence) / 2


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Average over the last axis without NaN; NaN, without a warning, where nothing is left."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=-1) / (~np.isnan(values)).sum(axis=-1)


def _nanquantile(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        return np.nanquantile(values, ends, axis=0)
