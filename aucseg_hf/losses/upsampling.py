"""Bilinear upsampling of one axis as banded matrices, and its transpose.

Equal to `torch.nn.functional.interpolate` with mode "bilinear" and align_corners=False, which is
separable: along each axis, output i reads the inputs floor(x) and floor(x) + 1 at
x = max((i + 1/2) * inputs / outputs - 1/2, 0). A run of consecutive outputs reads a short window of
inputs, so a small dense matrix per run turns upsampling and its transpose into matrix products
without any index tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Outputs start..stop-1 as a linear map of the inputs low..high-1.

    Attributes:
        matrix: interpolation weights, [stop - start, high - low].
    """

    start: int
    stop: int
    low: int
    high: int
    matrix: Tensor


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Keeps float32 matrix products exact where the user lets CUDA round them to TF32.

    Interpolated logits are no place to save ten bits on.
    """
    if device.type != "cuda":
        yield
        return
    settings = torch.backends.cuda.matmul
    # torch 2.9 renamed the setting and refuses the old name next to the new one.
    renamed = hasattr(settings, "fp32_precision")
    name, exact = ("fp32_precision", "ieee") if renamed else ("allow_tf32", False)
    before = getattr(settings, name)
    setattr(settings, name, exact)
    try:
        yield
    finally:
        setattr(settings, name, before)


def interpolation_taps(inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """What every output reads: lower input, upper input (int64), weight of the upper (float64)."""
    position = (torch.arange(outputs, dtype=torch.float64) + 0.5) * (inputs / outputs) - 0.5
    position.clamp_min_(0)
    lower = position.floor().clamp_max_(inputs - 1)
    upper = (lower + 1).clamp_max_(inputs - 1)
    return lower.long(), upper.long(), position - lower


class Axis:
    """One axis of a bilinear upsampling, cut into windows.

    Args:
        inputs: low-resolution length.
        outputs: full-resolution length.
        step: largest number of outputs per window.
        dtype: of the matrices.
        device: of the matrices.
    """

    def __init__(
        self, inputs: int, outputs: int, step: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.windows = []
        lower, upper, weight = interpolation_taps(inputs, outputs)
        for start in range(0, outputs, step):
            rows = slice(start, min(start + step, outputs))
            low, high = int(lower[start]), int(upper[rows.stop - 1]) + 1
            matrix = torch.zeros(rows.stop - start, high - low, dtype=torch.float64)
            matrix.scatter_add_(1, lower[rows, None] - low, 1 - weight[rows, None])
            matrix.scatter_add_(1, upper[rows, None] - low, weight[rows, None])
            self.windows.append(Window(start, rows.stop, low, high, matrix.to(device, dtype)))

    def upsample_rows(self, values: Tensor) -> Tensor:
        """Upsamples a matrix [n, inputs] to [n, outputs]."""
        result = values.new_empty(values.shape[0], self.outputs)
        for part in self.windows:
            window = values[:, part.low : part.high]
            torch.mm(window, part.matrix.t(), out=result[:, part.start : part.stop])
        return result

    def pull_back_rows(self, values: Tensor) -> Tensor:
        """Applies the transpose of `upsample_rows`, [n, outputs] to [n, inputs]."""
        result = values.new_zeros(values.shape[0], self.inputs)
        for part in self.windows:
            window = result[:, part.low : part.high]
            window.addmm_(values[:, part.start : part.stop], part.matrix)
        return result
