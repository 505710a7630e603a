"""Puts the parts together: counts, cross-entropy, AUC, ranks, autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from aucseg_hf.errors import InputError
from aucseg_hf.losses.inputs import (
    check_class_weights,
    check_weight,
    count_labels,
    pair_batches,
)
from aucseg_hf.losses.pairing import Pairing, check_scheme
from aucseg_hf.losses.pairwise import check_score, pairwise_auc
from aucseg_hf.losses.surrogates import Surrogate, make_surrogate


class SegmentationLossOutput(NamedTuple):
    """What `segmentation_loss` returns; all scalars.

    Attributes:
        loss: ce_weight * ce + auc_weight * auc; the only one that carries a gradient.
        ce: cross-entropy, unweighted.
        auc: pixel AUC loss, unweighted.
    """

    loss: Tensor
    ce: Tensor
    auc: Tensor


@dataclass(frozen=True)
class CrossEntropyTerm:
    """The cross-entropy part of the loss and its options."""

    weight: float
    class_weights: Tensor | None
    label_smoothing: float

    @classmethod
    def create(
        cls,
        weight: float,
        class_weights: Tensor | Sequence[float] | None,
        label_smoothing: float,
    ) -> CrossEntropyTerm:
        """Checks the options; raises InputError if one is out of range."""
        if not 0 <= label_smoothing <= 1:
            raise InputError(f"expected label_smoothing in [0, 1], got {label_smoothing}")
        return cls(
            check_weight("ce_weight", weight), check_class_weights(class_weights), label_smoothing
        )


@dataclass(frozen=True)
class AUCTerm:
    """The AUC part of the loss and its options."""

    weight: float
    surrogate: Surrogate
    scheme: str
    score: str

    @classmethod
    def create(
        cls, surrogate: str, scheme: str, gamma: float, score: str, weight: float = 1.0
    ) -> AUCTerm:
        """Checks the options; raises InputError if one is out of range."""
        return cls(
            check_weight("auc_weight", weight),
            make_surrogate(surrogate, gamma),
            check_scheme(scheme),
            check_score(score),
        )


def evaluate(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    *,
    auc: AUCTerm,
    ce: CrossEntropyTerm | None = None,
    ignore_index: int,
    process_group: ProcessGroup | None,
) -> SegmentationLossOutput:
    """The loss of all micro-batches on all ranks; see `segmentation_loss`."""
    batches = pair_batches(logits, labels)
    num_classes = batches[0][0].shape[1]
    if ce is not None and ce.class_weights is not None and len(ce.class_weights) != num_classes:
        raise InputError(
            f"expected class_weights of {num_classes} classes, got {len(ce.class_weights)}"
        )
    world_size = 1 if process_group is None else dist.get_world_size(process_group)

    def reduce(values: Tensor) -> Tensor:
        if process_group is not None:
            dist.all_reduce(values, group=process_group)
        return values

    counts = reduce(sum(count_labels(target, num_classes, ignore_index) for _, target in batches))
    pairing = Pairing.from_counts(counts, auc.scheme)
    zero = 0.0 * sum(scores.flatten()[:1].double().nan_to_num(0, 0, 0).sum() for scores, _ in batches)
    auc_value = zero
    if pairing is not None:
        auc_value = pairwise_auc(
            batches, pairing, auc.surrogate, auc.score, ignore_index, reduce, world_size
        )
    dtype = torch.float64 if batches[0][0].dtype == torch.float64 else torch.float32
    if ce is None:
        return SegmentationLossOutput(auc_value.to(dtype), zero, auc_value)
    ce_value = _cross_entropy(batches, counts, ce, ignore_index, reduce, world_size) + zero
    loss = ce.weight * ce_value + auc.weight * auc_value
    return SegmentationLossOutput(
        loss.to(dtype), ce_value.detach().to(dtype), auc_value.detach().to(dtype)
    )


def _cross_entropy(batches, counts, ce, ignore_index, reduce, world_size):
    weights = torch.ones(len(counts)) if ce.class_weights is None else ce.class_weights
    weights = weights.to(counts.device)
    denominator = (counts * weights.double()).sum()
    if denominator == 0:
        return counts.new_zeros((), dtype=torch.float64)
    total = 0.0
    for logits, labels in batches:
        if not labels.numel():
            continue
        working = logits if logits.dtype == torch.float64 else logits.float()
        working = F.interpolate(working, size=labels.shape[-2:], mode="bilinear")
        total = total + F.cross_entropy(
            working,
            labels.long(),
            weight=weights.to(working.dtype),
            ignore_index=ignore_index,
            label_smoothing=ce.label_smoothing,
            reduction="none",
        ).sum(dtype=torch.float64)
    total = total / denominator + 0.0 * sum(logits.sum() for logits, _ in batches)
    value = reduce(total.detach().clone())
    return value + world_size * (total - total.detach())
