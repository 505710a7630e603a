"""Which pixels are paired with which, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from aucseg_hf.losses.surrogates import PairWeights

SCHEMES = ("ovo", "ova")


@dataclass(frozen=True)
class Pairing:
    """Weights of the pixel pairs of one global batch with at least two classes present.

    The loss is 1/(P total) sum_c sum_{m in N_c} sum_{n not in N_c} u_c v_{c,n} phi(t): every pixel
    of class c is a positive of weight u_c = 1/N_c; a pixel of class j is a negative of class c of
    weight v = 1/N_j one-versus-one, v = 1/(N - N_c) one-versus-all.

    Attributes:
        present: ids of the P classes present, int64 [P].
        positive_weight: u_c, float64 [P].
        negative_weight: v_c where it depends on the column c (one-versus-all), float64 [P]; None
            where it is the u_j of the negative pixel's own class (one-versus-one).
        total: summed weight of the negatives of one class: P - 1 one-versus-one, else 1.
    """

    present: Tensor
    positive_weight: Tensor
    negative_weight: Tensor | None
    total: int

    @property
    def normalizer(self) -> int:
        """The number of class pairs averaged over: P (P - 1) one-versus-one, else P."""
        return len(self.present) * self.total

    @classmethod
    def from_counts(cls, counts: Tensor, scheme: str) -> Pairing | None:
        """Pairs the classes with pixels; None if there are fewer than two.

        Args:
            counts: pixels of every class in the global batch, int64 [C].
            scheme: "ovo" or "ova".
        """
        present = counts.nonzero().flatten()
        if len(present) < 2:
            return None
        pixels = counts[present].double()
        if scheme == "ovo":
            return cls(present, 1 / pixels, None, len(present) - 1)
        return cls(present, 1 / pixels, 1 / (pixels.sum() - pixels), 1)

    def column_weights(self, column: int, ranks: Tensor) -> PairWeights:
        """Weights for the column of the class `present[column]`.

        Args:
            column: index into `present`.
            ranks: indices into `present` of the negative pixels' own classes, int64 [m].
        """
        if self.negative_weight is None:
            negative = self.positive_weight[ranks]
        else:
            negative = self.negative_weight[column].expand(len(ranks))
        return PairWeights(self.positive_weight[column], negative, self.total)
