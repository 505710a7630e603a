"""Evaluates the loss of the global batch: counts first, then one sweep, then its coefficients."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from aucseg_hf.errors import InputError
from aucseg_hf.losses import inputs, moments, native
from aucseg_hf.losses.autograd import attach_gradient
from aucseg_hf.losses.inputs import Batches, pair_batches
from aucseg_hf.losses.pairing import Pairing
from aucseg_hf.losses.pairwise import pairwise_auc
from aucseg_hf.losses.plan import CrossEntropyWeights, SweepPlan, SweepResult
from aucseg_hf.losses.smoothing import add_linear_smoothing
from aucseg_hf.losses.surrogates import Reduce, SeparableSurrogate
from aucseg_hf.losses.terms import AUCTerm, CrossEntropyTerm, SegmentationLossOutput
from aucseg_hf.losses.upsampling import exact_products


# The sweep allocates, synchronises and may call compiled code: nothing a graph compiler could gain.
@torch.compiler.disable
def evaluate(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    *,
    auc: AUCTerm,
    cross_entropy: CrossEntropyTerm | None,
    ignore_index: int,
    process_group: ProcessGroup | None,
) -> SegmentationLossOutput:
    """The loss of all micro-batches of all ranks; see `segmentation_loss`.

    Without `cross_entropy` the output's `loss` is the AUC term alone and `ce` is 0.
    """
    batches = pair_batches(logits, labels)
    if process_group is not None and not auc.surrogate.sums_over_ranks:
        raise InputError(
            "expected gamma >= 1 for a hinge over several ranks, got "
            f"{auc.surrogate.gamma}: below 1 it sorts the scores of all pixels, which no rank has"
        )
    world_size = 1 if process_group is None else dist.get_world_size(process_group)

    def reduce(values: Tensor) -> Tensor:
        if process_group is not None:
            dist.all_reduce(values, group=process_group)
        return values

    device = batches[0][0].device
    with torch.autocast(device.type, enabled=False):
        with torch.no_grad(), exact_products(device):
            fused = auc.score == "sigmoid" and isinstance(auc.surrogate, SeparableSurrogate)
            counts = _count(batches, ignore_index, reduce)
            pairing = Pairing.from_counts(counts, auc.scheme)
            plan = SweepPlan(
                num_classes=len(counts),
                ignore_index=ignore_index,
                cross_entropy=_cross_entropy_weights(cross_entropy, counts, world_size),
                pairing=pairing if fused else None,
                surrogate=auc.surrogate,
                # DistributedDataParallel averages gradients that have to be summed here.
                auc_scale=auc.weight * world_size,
            )
            result = _sweep(batches, plan)
            if plan.cross_entropy is not None:
                add_linear_smoothing(batches, plan, result)
            ce, auc_value, gradients = _finish(result, plan, reduce)
            loss = auc_value * auc.weight
            if cross_entropy is not None:
                loss = loss + ce * cross_entropy.weight
        dtype = torch.promote_types(batches[0][0].dtype, torch.float32)
        loss = attach_gradient(loss.to(dtype), [scores for scores, _ in batches], gradients)
        if pairing is not None and not fused:
            unfused = pairwise_auc(batches, pairing, auc, ignore_index, reduce, world_size)
            loss = loss + (auc.weight * unfused).to(dtype)
            auc_value = unfused.detach()
    return SegmentationLossOutput(loss, ce.to(dtype), auc_value.to(dtype))


def _count(batches: Batches, ignore_index: int, reduce: Reduce) -> Tensor:
    """Pixels of every class in the global batch, int64 [C]."""
    classes = batches[0][0].shape[1]
    library = _library(batches)
    if library is None:
        count = inputs.count_labels
    else:
        count = functools.partial(native.count_labels, library)
    return reduce(
        torch.stack([count(labels, classes, ignore_index) for _, labels in batches]).sum(0)
    )


def _sweep(batches: Batches, plan: SweepPlan) -> SweepResult:
    library = _library(batches)
    if library is None:
        return moments.sweep(batches, plan)
    return native.sweep(library, batches, plan)


def _library(batches: Batches) -> ctypes.CDLL | None:
    """The compiled sweep, for tensors on the CPU."""
    return native.load_library() if batches[0][0].device.type == "cpu" else None


def _cross_entropy_weights(
    term: CrossEntropyTerm | None, counts: Tensor, world_size: int
) -> CrossEntropyWeights | None:
    if term is None:
        return None
    if term.class_weights is not None and len(term.class_weights) != len(counts):
        raise InputError(
            f"expected class_weights of {len(counts)} classes, got {len(term.class_weights)}"
        )
    return CrossEntropyWeights.create(
        counts, term.class_weights, term.label_smoothing, term.weight * world_size
    )


def _finish(
    result: SweepResult, plan: SweepPlan, reduce: Reduce
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Sums over the ranks, forms the coefficients and combines the gradient maps.

    Returns:
        Cross-entropy and AUC, float64 scalars, and the gradient [B,C,h,w] of every micro-batch.
    """
    sums = torch.cat([result.ce[None], result.positive.flatten(), result.negative.flatten()])
    sums = reduce(sums)
    ce, positive, negative = sums.split([1, 2 * plan.columns, 2 * plan.columns])
    auc = torch.zeros_like(result.ce)
    if plan.pairing is not None:
        positive, negative = positive.view(2, -1), negative.view(2, -1)
        normalizer = plan.pairing.normalizer
        per_class = plan.pairing.total * positive[0] + negative[0] + positive[1] * negative[1]
        auc = per_class.sum() / normalizer
        if plan.mapped_columns:
            scale = plan.auc_scale / normalizer
            for base, pull, push in zip(result.base, result.pull, result.push, strict=True):
                for maps, coefficients in ((pull, positive[1]), (push, negative[1])):
                    maps.mul_((scale * coefficients).to(maps.dtype)[:, None, None])
                    base.index_add_(1, plan.pairing.present, maps)
    return ce[0], auc, result.base
