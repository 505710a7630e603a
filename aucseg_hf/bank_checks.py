"""What the memory bank refuses, each with one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from aucseg_hf.errors import InputError


def checked_classes(
    tail_classes: Iterable[int], ignore_index: int, num_labels: int | None
) -> tuple[int, ...]:
    """Returns distinct class ids in ascending order; `num_labels` bounds them where it is known."""
    classes = sorted(int(c) for c in tail_classes)
    if not classes or len(set(classes)) != len(classes):
        raise InputError(f"expected one or more distinct tail classes, got {classes}")
    if ignore_index in classes:
        raise InputError(
            f"expected tail classes without ignore_index {ignore_index}, got {classes}"
        )
    upper = math.inf if num_labels is None else num_labels
    outside = [c for c in classes if not 0 <= c < upper]
    if outside:
        raise InputError(f"expected tail classes in [0, {upper}), got {outside}")
    return tuple(classes)


def checked_count(name: str, value: int) -> int:
    """Returns a whole number of at least 1."""
    if value < 1 or int(value) != value:
        raise InputError(f"expected {name} to be a whole number >= 1, got {value}")
    return int(value)


def checked_ratio(name: str, value: float) -> float:
    """Returns a number in (0, 1]."""
    if not 0 < value <= 1:
        raise InputError(f"expected {name} in (0, 1], got {value}")
    return float(value)


def check_batch(pixel_values: Tensor, labels: Tensor, largest_class: int) -> None:
    """Raises an InputError unless images and labels fit together and hold the tail classes."""
    shape = list(pixel_values.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise InputError(f"expected pixel_values of shape [B, 3, H, W], none 0, got {shape}")
    if list(labels.shape) != [shape[0], *shape[2:]]:
        raise InputError(
            f"expected labels of shape {[shape[0], *shape[2:]]} for pixel_values {shape}, "
            f"got {list(labels.shape)}"
        )
    if not pixel_values.is_floating_point():
        raise InputError(
            f"expected floating-point pixel_values, got {pixel_values.dtype}: normalise them first"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"expected labels of an integer dtype, got {labels.dtype}")
    if largest_class > torch.iinfo(labels.dtype).max:
        raise InputError(
            f"expected a label dtype that holds tail class {largest_class}, "
            f"got {labels.dtype}: use torch.int64"
        )
    if labels.device != pixel_values.device:
        raise InputError(
            f"expected labels on the device of pixel_values, {pixel_values.device}, "
            f"got {labels.device}"
        )


def check_state(state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises an InputError unless `state` is a bank's state made with the expected options."""
    absent = {"config", "memory", "generator"} - set(state)
    if absent:
        raise InputError(
            f"expected the state of a TailMemoryBank, got one without {sorted(absent)}: "
            "pass what TailMemoryBank.state_dict() returned"
        )
    config = state["config"]
    different = [name for name in expected if config.get(name) != expected[name]]
    if different:
        wanted = ", ".join(f"{name}={expected[name]}" for name in different)
        came = ", ".join(f"{name}={config.get(name)}" for name in different)
        raise InputError(
            f"expected a bank state made with {wanted}, got {came}: "
            "use the options of the checkpoint, or start with an empty bank"
        )
