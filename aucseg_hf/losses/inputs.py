"""Checks of what a caller hands to the losses, and the pixel counts every normaliser comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aucseg_hf.errors import InputError

Batches = list[tuple[Tensor, Tensor]]


def pair_batches(logits: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]) -> Batches:
    """Pairs logits with labels and checks that they fit together.

    Args:
        logits: one tensor [B,C,h,w], or a sequence of such micro-batches.
        labels: one tensor [B,H,W], or a sequence of the same length.

    Returns:
        The micro-batches as a list of (logits, labels).

    Raises:
        InputError: for wrong ranks, dtypes, batch sizes or numbers of classes.
    """
    logits = [logits] if isinstance(logits, Tensor) else list(logits)
    labels = [labels] if isinstance(labels, Tensor) else list(labels)
    if not logits or len(logits) != len(labels):
        raise InputError(
            "expected as many label tensors as logit tensors and at least one, "
            f"got {len(labels)} and {len(logits)}"
        )
    for scores, target in zip(logits, labels, strict=True):
        _check_pair(scores, target)
    first = logits[0]
    for scores in logits[1:]:
        if (scores.shape[1], scores.dtype, scores.device) != (
            first.shape[1],
            first.dtype,
            first.device,
        ):
            raise InputError(
                "expected micro-batches of one number of classes, dtype and device, got "
                f"{first.shape[1]} {first.dtype} {first.device} and "
                f"{scores.shape[1]} {scores.dtype} {scores.device}"
            )
    return list(zip(logits, labels, strict=True))


def _check_pair(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 4:
        raise InputError(f"expected logits [B,C,h,w], got shape {list(logits.shape)}")
    if not logits.is_floating_point():
        raise InputError(f"expected floating-point logits, got {logits.dtype}")
    if logits.shape[1] < 2:
        raise InputError(f"expected logits of at least 2 classes, got {logits.shape[1]}")
    if labels.ndim != 3:
        raise InputError(f"expected labels [B,H,W] of class ids, got shape {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"expected labels of an integer dtype, got {labels.dtype}")
    if labels.shape[0] != logits.shape[0]:
        raise InputError(
            f"expected labels [B,H,W] to match logits batch {logits.shape[0]}, "
            f"got {labels.shape[0]}"
        )
    if labels.device != logits.device:
        raise InputError(
            f"expected labels on the device of the logits, {logits.device}, got {labels.device}"
        )
    if labels.numel() and not logits.numel():
        raise InputError(f"expected non-empty logits, got shape {list(logits.shape)}")
    # Anomaly detection is torch's own debug mode; checking always would cost a pass per step.
    if torch.is_anomaly_enabled() and not torch.isfinite(logits).all():
        bad = logits.numel() - int(torch.isfinite(logits).sum())
        raise InputError(f"expected finite logits, got {bad} non-finite of {logits.numel()} values")


def count_labels(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Counts the pixels of every class and checks the ids on the way.

    Args:
        labels: class ids [B,H,W] of any integer dtype.
        num_classes: C, the number of valid ids.
        ignore_index: the id of void pixels, which are not counted.

    Returns:
        Pixel counts, int64 [C], on the device of the labels.

    Raises:
        InputError: if an id is neither in 0..C-1 nor `ignore_index`.
    """
    counts = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
    # One image at a time: the int64 copy of all labels would outweigh the sweep itself.
    for image in labels:
        if not image.numel():
            continue
        ids = image.long()
        ignored = ids == ignore_index
        ids = ids.masked_fill(ignored, 0).flatten()
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= num_classes:
            raise unknown_label(low if low < 0 else high, num_classes, ignore_index)
        counts += torch.bincount(ids, minlength=num_classes)
        counts[0] -= ignored.sum()
    return counts


def unknown_label(label: int, num_classes: int, ignore_index: int) -> InputError:
    """The error for a label id that names no class."""
    return InputError(
        f"labels contain id {label}, expected 0..{num_classes - 1} or ignore_index {ignore_index};"
        " map the ids of the data set to class ids first"
    )


def check_weight(name: str, value: float) -> float:
    """Returns `value` if it is a finite, non-negative number; raises InputError otherwise."""
    if not math.isfinite(value) or value < 0:
        raise InputError(f"expected a finite {name} >= 0, got {value}")
    return float(value)


def check_class_weights(weights: Tensor | Sequence[float] | None) -> Tensor | None:
    """Returns per-class weights as a float64 vector [C]; raises InputError if one is unusable."""
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.float64).detach()
    if weights.ndim != 1:
        raise InputError(f"expected class_weights [C], got shape {list(weights.shape)}")
    bad = ~torch.isfinite(weights) | (weights < 0)
    if bad.any():
        index = int(bad.nonzero()[0])
        raise InputError(
            f"expected finite class_weights >= 0, got {weights[index].item()} for class {index}"
        )
    return weights
