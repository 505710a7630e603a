"""The part of label smoothing that is linear in the logits.

Smoothing adds - sum_n sum_c linear_c z_n[c] over the valid pixels to the cross-entropy (the rest is
in the weights of the sweep). Upsampling is linear too, so the sum over pixels is an inner product
of the low-resolution logits with the mask of valid pixels pulled back to low resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aucseg_hf.losses.inputs import Batches
from aucseg_hf.losses.plan import SweepPlan, SweepResult
from aucseg_hf.losses.upsampling import Axis

_STEP = 128


def add_linear_smoothing(batches: Batches, plan: SweepPlan, result: SweepResult) -> None:
    """Adds value and gradient to `result`."""
    terms = plan.cross_entropy
    if terms.spread == 0:
        return
    for (logits, labels), base in zip(batches, result.base, strict=True):
        if not labels.numel():
            continue
        mask = _valid_mask(labels, logits.shape[-2:], plan.ignore_index, base.dtype)
        result.ce -= torch.einsum("bchw,bhw,c->", logits.double(), mask.double(), terms.linear)
        weights = (terms.scale * terms.linear).to(base.dtype)
        base -= mask[:, None] * weights[:, None, None]


def _valid_mask(
    labels: Tensor, size: tuple[int, int], ignore_index: int, dtype: torch.dtype
) -> Tensor:
    """The mask of valid pixels [B,H,W] pulled back to [B,h,w]."""
    rows, columns = labels.shape[-2:]
    place = {"dtype": dtype, "device": labels.device}
    down, across = Axis(size[0], rows, _STEP, **place), Axis(size[1], columns, _STEP, **place)
    low = []
    for image in labels:
        narrow = across.pull_back_rows((image != ignore_index).to(dtype))
        low.append(down.pull_back_rows(narrow.t().contiguous()).t())
    return torch.stack(low)
