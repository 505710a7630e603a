"""The surrogates phi(t) of the pixel AUC, t = score of a positive pixel minus score of a negative one.

Scores lie in [0, 1], so t lies in [-1, 1]. A `SeparableSurrogate` splits into functions of single
pixels,

    phi(a - b) = p0(a) + n0(b) + p1(a) n1(b),

so the mean over all pairs follows from a few sums over pixels (see `moments`). The others compute
the same mean for one class at a time from the sorted or expanded scores (see `pairwise`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from aucseg_hf.errors import InputError

Reduce = Callable[[Tensor], Tensor]


class PairWeights(NamedTuple):
    """Weights of the pixels of one column, over all ranks.

    Attributes:
        positive: weight u of every positive, float64 scalar.
        negative: weight v of each negative, float64 [m].
        total: sum of v over the negatives of all ranks.
    """

    positive: Tensor
    negative: Tensor
    total: float


class PairMean(NamedTuple):
    """The sum of u v phi over all pairs of one column, and its derivatives.

    Attributes:
        value: scalar, float64.
        positive_slope: derivative with respect to each positive score, [n].
        negative_slope: derivative with respect to each negative score, [m].
    """

    value: Tensor
    positive_slope: Tensor
    negative_slope: Tensor


class Surrogate(ABC):
    """A convex, decreasing loss phi(t) of the score difference t.

    Args:
        gamma: margin or scale of the surrogate, > 0.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    @abstractmethod
    def phi(self, t: Tensor) -> Tensor:
        """The surrogate itself, elementwise; the definition everything else is derived from."""

    @abstractmethod
    def pair_mean(
        self, positives: Tensor, negatives: Tensor, weights: PairWeights, reduce: Reduce
    ) -> PairMean:
        """Weighted sum of phi over all pairs without enumerating them.

        Args:
            positives: scores of the class's own pixels, float64 [n].
            negatives: scores of all other pixels, float64 [m].
            weights: of both.
            reduce: sums a tensor over the ranks.
        """


class Terms(NamedTuple):
    """Parts of a separable surrogate as functions of a score: shaped like it, or constant scalars.

    Attributes:
        additive: p0 or n0.
        product: p1 or n1.
        additive_slope: derivative of `additive`.
        product_slope: derivative of `product`.
    """

    additive: Tensor
    product: Tensor
    additive_slope: Tensor
    product_slope: Tensor


class SeparableSurrogate(Surrogate):
    """A surrogate with phi(a - b) = p0(a) + n0(b) + p1(a) n1(b).

    Attributes:
        has_additive: whether p0 and n0 are there (otherwise they are zero).
        has_product: whether p1 and n1 are there (otherwise they are zero).
    """

    has_additive = True
    has_product = True

    @abstractmethod
    def positive(self, score: Tensor) -> Terms:
        """p0, p1 and their derivatives at the scores of positive pixels."""

    @abstractmethod
    def negative(self, score: Tensor) -> Terms:
        """n0, n1 and their derivatives at the scores of negative pixels."""

    def pair_mean(
        self, positives: Tensor, negatives: Tensor, weights: PairWeights, reduce: Reduce
    ) -> PairMean:
        """See `Surrogate.pair_mean`; here from four sums."""
        own, other = self.positive(positives), self.negative(negatives)
        u, v = weights.positive.expand_as(positives), weights.negative
        p0, p1, n0, n1 = reduce(
            torch.stack(
                [
                    (u * own.additive).sum(),
                    (u * own.product).sum(),
                    (v * other.additive).sum(),
                    (v * other.product).sum(),
                ]
            )
        )
        return PairMean(
            weights.total * p0 + n0 + p1 * n1,
            u * (weights.total * own.additive_slope + n1 * own.product_slope),
            v * (other.additive_slope + p1 * other.product_slope),
        )


class Square(SeparableSurrogate):
    """phi(t) = (gamma - t)^2 = (gamma - a)^2 + b^2 + 2 (gamma - a) b."""

    def phi(self, t: Tensor) -> Tensor:
        """See `Surrogate.phi`."""
        return (self.gamma - t).square()

    def positive(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.positive`."""
        margin = self.gamma - score
        return Terms(margin * margin, 2 * margin, -2 * margin, score.new_tensor(-2.0))

    def negative(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.negative`."""
        return Terms(score * score, score, 2 * score, score.new_tensor(1.0))


class Hinge(SeparableSurrogate):
    """phi(t) = max(0, gamma - t) for gamma >= 1, where t <= 1 makes it gamma - t exactly."""

    has_product = False

    def phi(self, t: Tensor) -> Tensor:
        """See `Surrogate.phi`."""
        return (self.gamma - t).clamp_min(0)

    def positive(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.positive`."""
        zero = score.new_tensor(0.0)
        return Terms(self.gamma - score, zero, zero - 1, zero)

    def negative(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.negative`."""
        zero = score.new_tensor(0.0)
        return Terms(score, zero, zero + 1, zero)


class Exponential(SeparableSurrogate):
    """phi(t) = exp(-gamma t) = exp(-gamma a) exp(gamma b)."""

    has_additive = False

    def phi(self, t: Tensor) -> Tensor:
        """See `Surrogate.phi`."""
        return (-self.gamma * t).exp()

    def positive(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.positive`."""
        zero, value = score.new_tensor(0.0), (-self.gamma * score).exp()
        return Terms(zero, value, zero, -self.gamma * value)

    def negative(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.negative`."""
        zero, value = score.new_tensor(0.0), (self.gamma * score).exp()
        return Terms(zero, value, zero, self.gamma * value)


SURROGATES = ("square", "hinge", "exp")


def make_surrogate(name: str, gamma: float) -> Surrogate:
    """Returns the surrogate `name` with margin `gamma`.

    Raises:
        InputError: for an unknown name or a gamma outside the surrogate's range.
    """
    if name not in SURROGATES:
        raise InputError(f"expected surrogate to be one of {', '.join(SURROGATES)}, got {name!r}")
    if not math.isfinite(gamma) or gamma <= 0:
        raise InputError(f"expected a finite gamma > 0, got {gamma}")
    if name == "hinge" and gamma < 1:
        raise InputError(f"expected gamma >= 1 for hinge, got {gamma}")
    return {"square": Square, "hinge": Hinge, "exp": Exponential}[name](float(gamma))
