"""Pixel-level AUC loss: `pixel_auc_loss` and the module `PixelAUCLoss`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from aucseg_hf.losses.engine import evaluate
from aucseg_hf.losses.terms import AUCTerm


def pixel_auc_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    *,
    surrogate: str = "square",
    scheme: str = "ovo",
    gamma: float = 1.0,
    score: str = "sigmoid",
    ignore_index: int = 255,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Pixel-level AUC loss of a batch (Han et al., NeurIPS 2024, eq. 4).

    With N_c the pixels of class c and f^(c) the score of class c, one-versus-one is the mean over
    ordered pairs of present classes (c, c') of the mean over m in N_c, n in N_c' of
    phi(f^(c)(x_m) - f^(c)(x_n)); one-versus-all takes all other pixels as the negatives of c.

    Args:
        logits: [B,C,h,w], float16, bfloat16, float32 or float64; or a list of such micro-batches.
        labels: class ids [B,H,W], any integer dtype (or a list). Where (h,w) differs from (H,W) the
            logits are upsampled bilinearly with align_corners=False.
        surrogate: "square", "hinge", "exp", "squared_hinge" or "logistic" (see `surrogates`).
        scheme: "ovo" or "ova".
        gamma: margin (square, hinges) or scale (exp, logistic) of the surrogate, > 0.
        score: "sigmoid" of each logit, or "softmax" over the classes.
        ignore_index: label id of void pixels.
        process_group: ranks over which the loss is exact; None for this process alone.

    Returns:
        Scalar: float64 for float64 logits, float32 otherwise. The loss of the batches of all ranks
        together; 0 with a zero gradient where fewer than two classes are present.

    Raises:
        InputError: for shapes, dtypes, label ids or options that do not fit.
    """
    term = AUCTerm.create(surrogate, scheme, gamma, score)
    return evaluate(
        logits,
        labels,
        auc=term,
        cross_entropy=None,
        ignore_index=ignore_index,
        process_group=process_group,
    ).loss


class PixelAUCLoss(nn.Module):
    """Module form of `pixel_auc_loss`; the arguments are the same.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[2.0, -2.0]], [[-2.0, 2.0]]]])
        >>> loss = PixelAUCLoss()(logits, torch.tensor([[[0, 1]]]))
        >>> round(loss.item(), 4)  # (1 - (sigmoid(2) - sigmoid(-2)))^2
        0.0568
    """

    def __init__(
        self,
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
        AUCTerm.create(surrogate, scheme, gamma, score)
        self.surrogate = surrogate
        self.scheme = scheme
        self.gamma = gamma
        self.score = score
        self.ignore_index = ignore_index
        self.process_group = process_group

    def forward(
        self, logits: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Loss of logits [B,C,h,w] and labels [B,H,W]; see `pixel_auc_loss`."""
        return pixel_auc_loss(
            logits,
            labels,
            surrogate=self.surrogate,
            scheme=self.scheme,
            gamma=self.gamma,
            score=self.score,
            ignore_index=self.ignore_index,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        """The options, for print(module)."""
        return (
            f"surrogate={self.surrogate!r}, scheme={self.scheme!r}, gamma={self.gamma}, "
            f"score={self.score!r}, ignore_index={self.ignore_index}"
        )
