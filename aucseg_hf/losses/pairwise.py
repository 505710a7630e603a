"""The pixel AUC loss column by column, for what the single sweep cannot fuse.

Softmax scores tie all classes of a pixel together, and surrogates that do not separate need all
scores of a class at once. Both keep the scores [N,P] of all valid pixels and present classes, and
a gradient of the same size: memory of the order of plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aucseg_hf.errors import InputError
from aucseg_hf.losses.inputs import Batches
from aucseg_hf.losses.pairing import Pairing
from aucseg_hf.losses.surrogates import Surrogate

SCORES = ("sigmoid", "softmax")


def check_score(score: str) -> str:
    """Returns `score` if it is known; raises InputError otherwise."""
    if score not in SCORES:
        raise InputError(f"expected score to be one of {', '.join(SCORES)}, got {score!r}")
    return score


def pairwise_auc(
    batches: Batches,
    pairing: Pairing,
    surrogate: Surrogate,
    score: str,
    ignore_index: int,
    reduce: Callable[[Tensor], Tensor],
    world_size: int,
) -> Tensor:
    """Pixel AUC loss, differentiable with respect to the logits.

    Args:
        batches: pairs of logits [B,C,h,w] and labels [B,H,W].
        pairing: weights of the pixel pairs of the global batch.
        surrogate: phi.
        score: "sigmoid" or "softmax".
        ignore_index: the id of void pixels.
        reduce: sums a tensor over the ranks.
        world_size: number of ranks, by which the gradient is multiplied because
            DistributedDataParallel divides by it.

    Returns:
        Scalar float64.
    """
    scores, ids = [], []
    for logits, labels in batches:
        if not labels.numel():
            continue
        working = logits if logits.dtype == torch.float64 else logits.float()
        if working.shape[-2:] != labels.shape[-2:]:
            working = F.interpolate(working, size=labels.shape[-2:], mode="bilinear")
        valid = labels != ignore_index
        full = working.sigmoid() if score == "sigmoid" else working.softmax(1)
        scores.append(full.movedim(1, -1)[valid][:, pairing.present])
        ids.append(labels[valid].long())
    if not scores:
        scores = [batches[0][0].new_zeros(0, len(pairing.present))]
        ids = [pairing.present[:0]]
    return _PairwiseAUC.apply(
        torch.cat(scores), torch.cat(ids), pairing, surrogate, reduce, world_size
    )


class _PairwiseAUC(torch.autograd.Function):
    """AUC of scores [N,P]; the gradient falls out of the forward pass."""

    @staticmethod
    def forward(ctx, scores, ids, pairing, surrogate, reduce, world_size):
        slopes = torch.empty_like(scores)
        ranks = torch.searchsorted(pairing.present, ids)
        weights = pairing.positive_weight[ranks]
        loss = scores.new_zeros((), dtype=torch.float64)
        for column in range(len(pairing.present)):
            own = ranks == column
            negatives = ~own
            if pairing.negative_weight is None:
                negative_weights = weights[negatives]
            else:
                negative_weights = pairing.negative_weight[column].expand(int(negatives.sum()))
            column_scores = scores[:, column].double()
            mean = surrogate.pair_mean(
                column_scores[own],
                pairing.positive_weight[column],
                column_scores[negatives],
                negative_weights,
                reduce,
            )
            loss += mean.value
            slopes[own, column] = mean.positive_slope.to(slopes.dtype)
            slopes[negatives, column] = mean.negative_slope.to(slopes.dtype)
        ctx.save_for_backward(slopes)
        ctx.scale = world_size / pairing.normalizer
        return loss / pairing.normalizer

    @staticmethod
    def backward(ctx, gradient):
        (slopes,) = ctx.saved_tensors
        return slopes * (gradient * ctx.scale).to(slopes.dtype), None, None, None, None, None
