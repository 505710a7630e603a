import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import PHI

from aucseg_hf.losses.surrogates import PairWeights, SeparableSurrogate, make_surrogate

scores = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(PHI)), st.floats(0.05, 20), scores, scores)
def test_pair_mean_and_slopes_equal_brute_force(name, gamma, own, other):
    own = torch.tensor(own, dtype=torch.float64, requires_grad=True)
    # Off the kinks of the hinges, where any slope between the two sides would do.
    other = torch.tensor(other, dtype=torch.float64) * 0.999 + 0.0003141
    other.requires_grad_()
    weights = torch.arange(1, len(other) + 1, dtype=torch.float64) / 7
    pairs = PHI[name](own[:, None] - other, gamma)
    want = (pairs.mean(0) * weights).sum()
    want.backward()
    mean = make_surrogate(name, gamma).pair_mean(
        own.detach(),
        other.detach(),
        PairWeights(torch.tensor(1 / len(own), dtype=torch.float64), weights, weights.sum().item()),
        lambda sums: sums,
    )
    close = {"rtol": 1e-10, "atol": 1e-12 * math.exp(min(gamma, 20))}
    torch.testing.assert_close(mean.value, want.detach(), **close)
    torch.testing.assert_close(mean.positive_slope, own.grad, **close)
    torch.testing.assert_close(mean.negative_slope, other.grad, **close)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(PHI)), st.floats(0.05, 20), st.floats(0, 1), st.floats(0, 1))
def test_terms_add_up_to_phi(name, gamma, own, other):
    surrogate = make_surrogate(name, gamma)
    a, b = torch.tensor([own, 0.5]).double(), torch.tensor([other, 0.0]).double()
    torch.testing.assert_close(surrogate.phi(a - b), PHI[name](a - b, gamma))
    if isinstance(surrogate, SeparableSurrogate):
        positive, negative = surrogate.positive(a), surrogate.negative(b)
        total = positive.additive + negative.additive + positive.product * negative.product
        torch.testing.assert_close(total, surrogate.phi(a - b))
        # A score of zero takes a pixel out of the negatives.
        assert (negative.additive * torch.ones(2))[1] == 0
        assert (negative.product * torch.ones(2))[1] == 0


def test_no_hinge_clips_from_gamma_one():
    t = torch.linspace(-1, 1, 21, dtype=torch.float64)
    hinge, squared = make_surrogate("hinge", 1.0), make_surrogate("squared_hinge", 1.0)
    torch.testing.assert_close(hinge.phi(t), 1 - t)
    torch.testing.assert_close(squared.phi(t), (1 - t) ** 2)
    assert isinstance(hinge, SeparableSurrogate)
    assert isinstance(squared, SeparableSurrogate)


@pytest.mark.parametrize(("gamma", "terms"), [(1.0, 16), (10.0, 63)])
def test_the_logistic_series_is_as_long_as_rounding_asks_for(gamma, terms):
    coefficients = make_surrogate("logistic", gamma).coefficients
    assert abs(len(coefficients) - terms) <= 1
    assert coefficients[-1].abs().max() < 1e-14 * coefficients.abs().max()
