"""The sweep compiled for this machine's CPU, built at first use; `moments` is its reference.

One C++ file is compiled without torch's headers, which takes seconds, and called through ctypes.
The library is kept in the user's cache under a name that covers the source, the compiler and the
CPU. Where it cannot be built, one warning is given and the PyTorch sweep does the work.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from aucseg_hf.losses.inputs import Batches
from aucseg_hf.losses.plan import SweepPlan, SweepResult
from aucseg_hf.losses.surrogates import Exponential, Hinge, Square

_SOURCE = Path(__file__).with_name("sweep.cpp")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
# The best first: not every compiler knows OpenMP or can tell the CPU.
_OPTIONAL_FLAGS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
_SURROGATES = (Square, Hinge, Exponential)
_LABEL_TYPES = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
}
_SAFE_LOGIT = {torch.float32: 38.0, torch.float64: 300.0}


class _Arguments(ctypes.Structure):
    """Mirrors `SweepArguments` of the C++ source."""

    _fields_ = (
        [
            (name, ctypes.c_int64)
            for name in (
                *("batch", "classes", "height", "width", "rows", "columns", "present"),
                *("label_type", "ignore_index", "surrogate", "bounded", "is_double", "threads"),
            )
        ]
        + [
            (name, ctypes.c_double)
            for name in ("spread", "ce_scale", "negative_total", "gamma", "auc_scale")
        ]
        + [
            (name, ctypes.c_void_p)
            for name in (
                *("logits", "labels", "order"),
                *("pixel_weight", "positive_weight", "negative_weight"),
                *("base", "pull", "push", "ce", "positive", "negative"),
            )
        ]
    )


def sweep(library: ctypes.CDLL, batches: Batches, plan: SweepPlan) -> SweepResult:
    """Does what `moments.sweep` does, on CPU tensors."""
    result = SweepResult.zeros(batches, plan)
    if plan.cross_entropy is None and plan.pairing is None:
        return result
    order = plan.order(torch.device("cpu"))
    pixel_weight = torch.zeros(plan.num_classes, dtype=torch.float64)
    spread = ce_scale = 0.0
    if plan.cross_entropy is not None:
        pixel_weight = plan.cross_entropy.pixel[order]
        spread, ce_scale = plan.cross_entropy.spread, plan.cross_entropy.scale
    pairing = plan.pairing
    for index, (logits, labels) in enumerate(batches):
        if not labels.numel():
            continue
        working = logits.to(result.base[index].dtype).contiguous()
        labels = labels.contiguous()
        limit = _SAFE_LOGIT[working.dtype]
        low, high = working.aminmax()
        arguments = _Arguments(
            *working.shape,
            *labels.shape[-2:],
            plan.columns,
            _LABEL_TYPES[labels.dtype],
            plan.ignore_index,
            _SURROGATES.index(type(plan.surrogate)) if pairing is not None else 1,
            -limit < low.item() and high.item() < limit,
            working.dtype == torch.float64,
            torch.get_num_threads(),
            spread,
            ce_scale,
            0.0 if pairing is None else pairing.total,
            plan.surrogate.gamma,
            0.0 if pairing is None else plan.auc_scale / pairing.normalizer,
            working.data_ptr(),
            labels.data_ptr(),
            order.data_ptr(),
            pixel_weight.data_ptr(),
            0 if pairing is None else pairing.positive_weight.data_ptr(),
            None if pairing is None or pairing.negative_weight is None
            else pairing.negative_weight.data_ptr(),
            result.base[index].data_ptr(),
            result.pull[index].data_ptr(),
            result.push[index].data_ptr(),
            result.ce.data_ptr(),
            result.positive.data_ptr(),
            result.negative.data_ptr(),
        )
        library.aucseg_sweep(ctypes.byref(arguments))
    return result
