"""The two terms of the training loss: their options, checked, and the output that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from aucseg_hf.errors import InputError, check_choice
from aucseg_hf.losses.inputs import check_class_weights, check_weight
from aucseg_hf.losses.pairing import SCHEMES
from aucseg_hf.losses.surrogates import Surrogate, make_surrogate

SCORES = ("sigmoid", "softmax")


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
    """Options of the cross-entropy.

    Attributes:
        weight: factor in the loss.
        class_weights: float64 [C], or None for equal ones.
        label_smoothing: in [0, 1].
    """

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
    """Options of the pixel AUC.

    Attributes:
        weight: factor in the loss.
        surrogate: phi.
        scheme: "ovo" or "ova".
        score: "sigmoid" or "softmax".
    """

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
            check_choice("scheme", scheme, SCHEMES),
            check_choice("score", score, SCORES),
        )
