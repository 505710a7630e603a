"""The training loss: cross-entropy plus pixel AUC in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from aucseg_hf.losses.engine import evaluate
from aucseg_hf.losses.terms import AUCTerm, CrossEntropyTerm, SegmentationLossOutput


def segmentation_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    *,
    ce_weight: float = 1.0,
    auc_weight: float = 1.0,
    class_weights: Tensor | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    surrogate: str = "square",
    scheme: str = "ovo",
    gamma: float = 1.0,
    score: str = "sigmoid",
    ignore_index: int = 255,
    process_group: ProcessGroup | None = None,
) -> SegmentationLossOutput:
    """ce_weight * cross-entropy + auc_weight * pixel AUC (Han et al., NeurIPS 2024, eq. 9).

    The cross-entropy equals `torch.nn.functional.cross_entropy` of the upsampled logits with
    `weight=class_weights`, `ignore_index`, `label_smoothing` and reduction "mean"; the AUC term is
    `pixel_auc_loss`.

    To accumulate gradients exactly, pass the logits and labels of all micro-batches of a step as
    two lists: the loss is that of their concatenation, and every tensor of the list gets its own
    gradient.

    Args:
        logits: [B,C,h,w], float16, bfloat16, float32 or float64; or a list of micro-batches.
        labels: class ids [B,H,W], any integer dtype; or a list of micro-batches.
        ce_weight: weight of the cross-entropy, >= 0.
        auc_weight: weight of the AUC term, >= 0.
        class_weights: weights [C] of the classes in the cross-entropy, >= 0; None for equal ones.
        label_smoothing: of the cross-entropy, in [0, 1].
        surrogate: see `pixel_auc_loss`, as for all that follow.
        scheme: "ovo" or "ova".
        gamma: margin or scale of the surrogate.
        score: "sigmoid" or "softmax".
        ignore_index: label id of void pixels, for both terms.
        process_group: ranks over which both terms are exact; None for this process alone.

    Returns:
        `loss`, which carries the gradient, and its unweighted parts `ce` and `auc`, which do not.
        Without valid pixels all three are 0 and so is the gradient.

    Raises:
        InputError: for shapes, dtypes, label ids or options that do not fit.
    """
    return evaluate(
        logits,
        labels,
        cross_entropy=CrossEntropyTerm.create(ce_weight, class_weights, label_smoothing),
        auc=AUCTerm.create(surrogate, scheme, gamma, score, auc_weight),
        ignore_index=ignore_index,
        process_group=process_group,
    )


class SegmentationLoss(nn.Module):
    """Module form of `segmentation_loss`; the arguments are the same.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[2.0, -2.0]], [[-2.0, 2.0]]]])
        >>> output = SegmentationLoss(auc_weight=2.0)(logits, torch.tensor([[[0, 1]]]))
        >>> [round(part.item(), 4) for part in output]  # ce = log(1 + exp(-4))
        [0.1318, 0.0181, 0.0568]
    """

    def __init__(
        self,
        ce_weight: float = 1.0,
        auc_weight: float = 1.0,
        class_weights: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        surrogate: str = "square",
        scheme: str = "ovo",
        gamma: float = 1.0,
        score: str = "sigmoid",
        ignore_index: int = 255,
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Checks the options.

        Raises:
            InputError: if one of them is out of range.
        """
        super().__init__()
        ce = CrossEntropyTerm.create(ce_weight, class_weights, label_smoothing)
        AUCTerm.create(surrogate, scheme, gamma, score, auc_weight)
        self.register_buffer("class_weights", ce.class_weights, persistent=False)
        self.ce_weight = ce_weight
        self.auc_weight = auc_weight
        self.label_smoothing = label_smoothing
        self.surrogate = surrogate
        self.scheme = scheme
        self.gamma = gamma
        self.score = score
        self.ignore_index = ignore_index
        self.process_group = process_group

    def forward(
        self, logits: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]
    ) -> SegmentationLossOutput:
        """Loss of logits [B,C,h,w] and labels [B,H,W]; see `segmentation_loss`."""
        return segmentation_loss(
            logits,
            labels,
            ce_weight=self.ce_weight,
            auc_weight=self.auc_weight,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
            surrogate=self.surrogate,
            scheme=self.scheme,
            gamma=self.gamma,
            score=self.score,
            ignore_index=self.ignore_index,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        """The options, for print(module)."""
        weights = "None" if self.class_weights is None else f"[{len(self.class_weights)}]"
        return (
            f"ce_weight={self.ce_weight}, auc_weight={self.auc_weight}, class_weights={weights}, "
            f"label_smoothing={self.label_smoothing}, surrogate={self.surrogate!r}, "
            f"scheme={self.scheme!r}, gamma={self.gamma}, score={self.score!r}, "
            f"ignore_index={self.ignore_index}"
        )
