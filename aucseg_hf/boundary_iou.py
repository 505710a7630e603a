"""Boundary IoU: how well the outlines of the classes are found."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

BOUNDARY_SHARE = 0.02
"""Width of the boundary as a share of the image diagonal."""


def boundary_counts(prediction: Tensor, label: Tensor, void: Tensor, num_labels: int) -> Tensor:
    """Count the boundary pixels of one image (Cheng et al., CVPR 2021, arXiv 2103.16562).

    The boundary of a class is the part of its region within d pixels (Chebyshev distance) of the
    region's outside, with d = round(0.02 * diagonal), at least 1; what lies beyond the image is
    outside. Boundary IoU of a class is |G & P| / |G | P| of its boundary G in the label and its
    boundary P in the prediction. Void pixels belong to no class in either.

    Args:
        prediction: Integer tensor [H, W] of class ids.
        label: Integer tensor [H, W] of class ids, of any value where void.
        void: Bool tensor [H, W].
        num_labels: Number of classes K, at most 32766.

    Returns:
        int64 tensor [3, K]: pixels in both boundaries, in the label's, in the prediction's.
    """
    distance = max(1, round(BOUNDARY_SHARE * math.hypot(*label.shape)))
    outlines = []
    for class_map in (label, prediction):
        # One more class for void, left out of the counts below.
        class_map = class_map.to(torch.int16).masked_fill(void, num_labels)
        outlines.append(class_map.where(_near_outside(class_map, distance), num_labels))
    in_label, in_prediction = outlines
    both = in_label.where(in_label == in_prediction, num_labels)
    return torch.stack(
        [
            torch.bincount(ids.flatten(), minlength=num_labels + 1)[:num_labels]
            for ids in (both, in_label, in_prediction)
        ]
    )


def _near_outside(class_map: Tensor, distance: int) -> Tensor:
    """Mark the pixels [H, W] within ``distance`` of another class or of the image's edge.

    A pixel is inside its region if its window holds one value only, so one largest and one smallest
    value per window do for all classes at once.
    """
    # -1 is no class, so that windows across the edge hold two values.
    padded = torch.nn.functional.pad(class_map, [distance] * 4, value=-1)
    largest = _over_windows(torch.maximum, padded, 2 * distance + 1)
    smallest = _over_windows(torch.minimum, padded, 2 * distance + 1)
    return largest != smallest


def _over_windows(
    combine: Callable[[Tensor, Tensor], Tensor], values: Tensor, width: int
) -> Tensor:
    """Reduce all windows of ``width`` x ``width``, doubling the window until it is wide enough."""
    for dim in (0, 1):
        covered = 1
        while covered < width:
            step = min(covered, width - covered)
            size = values.shape[dim] - step
            values = combine(values.narrow(dim, 0, size), values.narrow(dim, step, size))
            covered += step
    return values
