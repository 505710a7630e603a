"""The surrogates phi(t) of the pixel AUC.

t = a - b is the score of a positive pixel minus that of a negative one. Scores lie in [0, 1], so t
lies in [-1, 1]. A `SeparableSurrogate` splits into functions of single pixels,

    phi(a - b) = p0(a) + n0(b) + p1(a) n1(b),

so the mean over all pairs follows from a few sums over pixels, in a single sweep (see `moments`).
The others take one class at a time with all its scores (see `pairwise`).

    square           (gamma - t)^2             separable
    hinge            max(0, gamma - t)         separable for gamma >= 1, else by sorting
    squared_hinge    max(0, gamma - t)^2       the square for gamma >= 1, else by sorting
    exp              exp(-gamma t)             separable
    logistic         log(1 + exp(-gamma t))    by a Chebyshev series, to rounding
"""

from __future__ import annotations

import math
import sys
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

    Attributes:
        sums_over_ranks: whether the pair mean follows from sums that ranks can add up.
    """

    sums_over_ranks = True

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
    """A surrogate with phi(a - b) = p0(a) + n0(b) + p1(a) n1(b) and n0(0) = n1(0) = 0.

    The second property lets a sweep exclude a pixel from the negatives by setting its score to 0.

    Attributes:
        has_product: whether p1 and n1 are there (otherwise they are zero).
    """

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
    """phi(t) = exp(-gamma t) = exp(-gamma a) + exp(-gamma a) (exp(gamma b) - 1)."""

    def phi(self, t: Tensor) -> Tensor:
        """See `Surrogate.phi`."""
        return (-self.gamma * t).exp()

    def positive(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.positive`."""
        value = (-self.gamma * score).exp()
        slope = -self.gamma * value
        return Terms(value, value, slope, slope)

    def negative(self, score: Tensor) -> Terms:
        """See `SeparableSurrogate.negative`."""
        zero, value = score.new_tensor(0.0), (self.gamma * score).exp()
        return Terms(zero, value - 1, zero, self.gamma * value)


class SortedHinge(Surrogate):
    """phi(t) = max(0, gamma - t)^power for gamma < 1, exactly in O(n log n).

    The clipped form does not separate. But a positive a meets only the negatives above a - gamma,
    so its share of the loss follows from suffix sums over the sorted negatives, and likewise for
    the negatives. All scores are needed at once, on one process.

    Args:
        gamma: margin, in (0, 1).
        power: 1 for the hinge, 2 for the squared hinge.
    """

    sums_over_ranks = False

    def __init__(self, gamma: float, power: int) -> None:
        super().__init__(gamma)
        self.power = power

    def phi(self, t: Tensor) -> Tensor:
        """See `Surrogate.phi`."""
        return (self.gamma - t).clamp_min(0).pow(self.power)

    def pair_mean(
        self, positives: Tensor, negatives: Tensor, weights: PairWeights, reduce: Reduce
    ) -> PairMean:
        """See `Surrogate.pair_mean`."""
        u, v = weights.positive, weights.negative
        margin, reach = self.gamma - positives, self.gamma + negatives
        above = [_sums_above(negatives, v * negatives**k, -margin) for k in range(self.power + 1)]
        below = [_sums_below(positives, positives**k, reach) for k in range(self.power)]
        if self.power == 1:
            value = margin * above[0] + above[1]
            return PairMean(u * value.sum(), -u * above[0], u * v * below[0])
        value = margin.square() * above[0] + 2 * margin * above[1] + above[2]
        return PairMean(
            u * value.sum(),
            -2 * u * (margin * above[0] + above[1]),
            2 * u * v * (reach * below[0] - below[1]),
        )


def _sums_above(keys: Tensor, values: Tensor, thresholds: Tensor) -> Tensor:
    """Sum of the values whose key exceeds the threshold, for every threshold."""
    return values.sum() - _sums_below(keys, values, thresholds, inclusive=True)


def _sums_below(
    keys: Tensor, values: Tensor, thresholds: Tensor, inclusive: bool = False
) -> Tensor:
    """Sum of the values whose key is below the threshold (or equal), for every threshold."""
    ordered, order = keys.sort()
    running = torch.cat([values.new_zeros(1), values[order].cumsum(0)])
    return running[torch.searchsorted(ordered, thresholds, right=inclusive)]


class Logistic(Surrogate):
    """phi(t) = log(1 + exp(-gamma t)), from a series that separates.

    No finite sum of products f(a) g(b) equals it, so no sub-quadratic form is exact algebraically.
    But phi is analytic around the scores, so its Chebyshev series in a and b converges
    geometrically; the degree is chosen such that what is left out is below float64 rounding (15
    for gamma = 1). The pair mean then needs one moment per degree.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__(gamma)
        # phi is singular at t = +-i pi / gamma; in units of half the score range, that is 2 pi /
        # gamma away from the real axis, and the coefficients fall like radius ** -degree.
        offset = 2 * math.pi / gamma
        radius = offset + math.hypot(offset, 1)
        nodes = 1 + math.ceil(-math.log(torch.finfo(torch.float64).eps) / math.log(radius))
        angles = (torch.arange(nodes, dtype=torch.float64) + 0.5) * (math.pi / nodes)
        points = (angles.cos() + 1) / 2
        transform = torch.cos(torch.arange(nodes, dtype=torch.float64)[:, None] * angles)
        transform *= 2 / nodes
        transform[0] /= 2
        self.coefficients = transform @ self.phi(points[:, None] - points) @ transform.t()

    def phi(self, t: Tensor) -> Tensor:
        """See `Surrogate.phi`."""
        return torch.nn.functional.softplus(-self.gamma * t)

    def pair_mean(
        self, positives: Tensor, negatives: Tensor, weights: PairWeights, reduce: Reduce
    ) -> PairMean:
        """See `Surrogate.pair_mean`."""
        coefficients = self.coefficients.to(positives.device)
        u, v = weights.positive.expand_as(positives), weights.negative
        own, other = reduce(
            torch.stack(
                [
                    _chebyshev_moments(positives, u, len(coefficients)),
                    _chebyshev_moments(negatives, v, len(coefficients)),
                ]
            )
        )
        return PairMean(
            own @ coefficients @ other,
            u * _chebyshev_slope(positives, coefficients @ other),
            v * _chebyshev_slope(negatives, own @ coefficients),
        )


def _chebyshev_moments(scores: Tensor, weights: Tensor, count: int) -> Tensor:
    """Weighted sums of T_k(2 f - 1) over the scores f in [0, 1], for k < count."""
    x = 2 * scores - 1
    older, newer = x, torch.ones_like(x)  # T_-1 = T_1 = x
    moments = []
    for _ in range(count):
        moments.append((weights * newer).sum())
        older, newer = newer, 2 * x * newer - older
    return torch.stack(moments)


def _chebyshev_slope(scores: Tensor, coefficients: Tensor) -> Tensor:
    """Derivative of sum_k c_k T_k(2 f - 1) with respect to f, by Clenshaw's recurrence."""
    x = 2 * scores - 1
    newer, older = torch.zeros_like(x), torch.zeros_like(x)
    for k in range(len(coefficients) - 1, 0, -1):  # T_k' = k U_(k-1)
        newer, older = k * coefficients[k] + 2 * x * newer - older, newer
    return 2 * newer


_LARGEST_GAMMA = {"exp": 80.0, "logistic": 100.0}
SURROGATES = ("square", "hinge", "exp", "squared_hinge", "logistic")


def make_surrogate(name: str, gamma: float) -> Surrogate:
    """Returns the surrogate `name` with margin or scale `gamma`.

    For gamma >= 1 the hinges never clip, because t <= 1: the hinge is linear and the squared hinge
    is the square.

    Raises:
        InputError: for an unknown name or a gamma outside the surrogate's range: gamma > 0, at most
            80 for exp (beyond, exp(gamma) leaves float32) and 100 for logistic.
    """
    if name not in SURROGATES:
        raise InputError(f"expected surrogate to be one of {', '.join(SURROGATES)}, got {name!r}")
    largest = _LARGEST_GAMMA.get(name, sys.float_info.max)
    if not 0 < gamma <= largest:
        bound = f" <= {largest:g}" if name in _LARGEST_GAMMA else ""
        raise InputError(f"expected 0 < gamma{bound or ' < inf'} for {name}, got {gamma}")
    gamma = float(gamma)
    if name in ("hinge", "squared_hinge") and gamma < 1:
        return SortedHinge(gamma, power=1 if name == "hinge" else 2)
    classes = {
        "square": Square,
        "hinge": Hinge,
        "exp": Exponential,
        "squared_hinge": Square,
        "logistic": Logistic,
    }
    return classes[name](gamma)
