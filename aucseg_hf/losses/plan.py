"""What a sweep has to compute, settled before it starts from the global pixel counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aucseg_hf.losses.inputs import Batches
from aucseg_hf.losses.pairing import Pairing
from aucseg_hf.losses.surrogates import SeparableSurrogate


@dataclass(frozen=True)
class CrossEntropyWeights:
    """Cross-entropy as sum_n pixel[y_n] (lse_n - z_n[y_n]) + spread sum_n lse_n over valid pixels.

    lse is the log-sum-exp of a pixel's logits z. The remaining part of label smoothing is linear
    in the logits and needs no sweep, see `smoothing`.

    Attributes:
        pixel: (1 - smoothing) w_y / D, float64 [C], D = sum_c w_c N_c.
        spread: smoothing * mean(w) / D.
        linear: smoothing * w_c / (C D), float64 [C].
        scale: factor of the cross-entropy in the gradient.
    """

    pixel: Tensor
    spread: float
    linear: Tensor
    scale: float

    @classmethod
    def create(
        cls, counts: Tensor, class_weights: Tensor | None, smoothing: float, scale: float
    ) -> CrossEntropyWeights:
        """Normalises over the global batch; all zero where it has no valid pixel of weight."""
        weights = torch.ones_like(counts, dtype=torch.float64)
        if class_weights is not None:
            weights = class_weights.to(weights)
        total = (weights * counts).sum().item()
        if total > 0:
            weights = weights / total
        else:
            weights = torch.zeros_like(weights)
        return cls(
            (1 - smoothing) * weights,
            smoothing * weights.mean().item(),
            smoothing * weights / len(counts),
            scale,
        )


@dataclass(frozen=True)
class SweepPlan:
    """Everything a sweep needs besides logits and labels.

    Attributes:
        num_classes: C.
        ignore_index: the id of void pixels.
        cross_entropy: its weights, or None to leave it out.
        pairing: weights of the pixel pairs, or None to leave the AUC out.
        surrogate: phi, used where `pairing` is given.
        auc_scale: factor of the AUC loss in the gradient.
    """

    num_classes: int
    ignore_index: int
    cross_entropy: CrossEntropyWeights | None
    pairing: Pairing | None
    surrogate: SeparableSurrogate
    auc_scale: float

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to sweep for."""
        return self.cross_entropy is None and self.pairing is None

    @property
    def columns(self) -> int:
        """The number P of present classes in the AUC part; 0 without it."""
        return 0 if self.pairing is None else len(self.pairing.present)

    @property
    def mapped_columns(self) -> int:
        """P where the gradient has coefficients that are known only at the end; else 0."""
        return self.columns if self.pairing is not None and self.surrogate.has_product else 0

    def order(self, device: torch.device) -> Tensor:
        """Class ids with the present ones first, int64 [C]; sweeps work in this order."""
        ids = torch.arange(self.num_classes, device=device)
        if self.pairing is None:
            return ids
        absent = torch.ones(self.num_classes, dtype=torch.bool, device=device)
        absent[self.pairing.present] = False
        return torch.cat([self.pairing.present, ids[absent]])


@dataclass
class SweepResult:
    """Sums over the pixels of one process, and the gradient up to coefficients known at the end.

    With f the score, u and v the weights of `Pairing`, and s = f (1 - f) the derivative of f with
    respect to the logit, the gradient of the i-th present class c is

        base[c] + auc_scale / normalizer * (positive[1, i] pull[i] + negative[1, i] push[i]),

    with the sums taken over all ranks; that of an absent class is base[c].

    Attributes:
        ce: cross-entropy without the linear part of smoothing, float64 scalar.
        positive: sums of u p0(f) and u p1(f) over the own pixels of each class, float64 [2,P].
        negative: sums of v n0(f) and v n1(f) over all other pixels, float64 [2,P].
        base: one map [B,C,h,w] per micro-batch, the part of the gradient without coefficients.
        pull: one map [B,P,h,w] per micro-batch, v n1'(f) s pulled back to low resolution.
        push: one map [B,P,h,w] per micro-batch, u p1'(f) s pulled back to low resolution.
    """

    ce: Tensor
    positive: Tensor
    negative: Tensor
    base: list[Tensor]
    pull: list[Tensor]
    push: list[Tensor]

    @classmethod
    def zeros(cls, batches: Batches, plan: SweepPlan) -> SweepResult:
        """An empty result to add to; maps have the dtype of the logits, but float32 at least."""
        device = batches[0][0].device
        dtype = torch.promote_types(batches[0][0].dtype, torch.float32)
        sums = torch.zeros(2, 2, plan.columns, dtype=torch.float64, device=device)

        def maps(channels: int) -> list[Tensor]:
            return [
                torch.zeros(len(x), channels, *x.shape[-2:], dtype=dtype, device=device)
                for x, _ in batches
            ]

        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            sums[0],
            sums[1],
            maps(plan.num_classes),
            maps(plan.mapped_columns),
            maps(plan.mapped_columns),
        )
