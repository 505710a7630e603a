"""The pixel AUC loss column by column, for what the single sweep cannot fuse.

Softmax scores tie all classes of a pixel together, and surrogates that do not separate need all
scores of a class at once. Both keep full-resolution logits and scores and a gradient of the scores:
memory of the order of plain cross-entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aucseg_hf.losses.autograd import attach_gradient
from aucseg_hf.losses.inputs import Batches
from aucseg_hf.losses.pairing import Pairing
from aucseg_hf.losses.surrogates import Reduce
from aucseg_hf.losses.terms import AUCTerm


def pairwise_auc(
    batches: Batches,
    pairing: Pairing,
    term: AUCTerm,
    ignore_index: int,
    reduce: Reduce,
    world_size: int,
) -> Tensor:
    """Pixel AUC loss, differentiable with respect to the logits.

    Args:
        batches: pairs of logits [B,C,h,w] and labels [B,H,W].
        pairing: weights of the pixel pairs of the global batch.
        term: surrogate and score; its weight is not applied.
        ignore_index: the id of void pixels.
        reduce: sums a tensor over the ranks.
        world_size: number of ranks, by which the gradient is multiplied because
            DistributedDataParallel divides by it.

    Returns:
        Scalar, float64.
    """
    columns = len(pairing.present)
    # Empty first elements: a rank without pixels still takes part in every reduction.
    scores, ranks = [batches[0][0].new_zeros(0, columns)], [pairing.present[:0]]
    for logits, labels in batches:
        if labels.numel():
            z = logits.to(torch.promote_types(logits.dtype, torch.float32))
            z = F.interpolate(z, size=labels.shape[-2:], mode="bilinear", align_corners=False)
            full = z.sigmoid() if term.score == "sigmoid" else z.softmax(1)
            valid = labels != ignore_index
            scores.append(full.movedim(1, -1)[valid][:, pairing.present])
            ranks.append(torch.searchsorted(pairing.present, labels[valid].long()))
    return _auc_of_scores(torch.cat(scores), torch.cat(ranks), pairing, term, reduce, world_size)


def _auc_of_scores(
    scores: Tensor,
    ranks: Tensor,
    pairing: Pairing,
    term: AUCTerm,
    reduce: Reduce,
    world_size: int,
) -> Tensor:
    """AUC of scores [N,P] and the pixels' classes as indices into `pairing.present`, int64 [N]."""
    with torch.no_grad():
        slopes = torch.empty_like(scores)
        loss = scores.new_zeros((), dtype=torch.float64)
        for column in range(len(pairing.present)):
            own = ranks == column
            column_scores = scores[:, column].double()
            mean = term.surrogate.pair_mean(
                column_scores[own],
                column_scores[~own],
                pairing.column_weights(column, ranks[~own]),
                reduce,
            )
            loss += mean.value
            slopes[own, column] = mean.positive_slope.to(slopes.dtype)
            slopes[~own, column] = mean.negative_slope.to(slopes.dtype)
        slopes *= world_size / pairing.normalizer
    return attach_gradient(loss / pairing.normalizer, [scores], [slopes])
