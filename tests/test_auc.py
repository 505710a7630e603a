import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import (
    PHI,
    brute_force_auc,
    random_batch,
    relative_error,
    upsample,
    value_and_gradient,
)
from torch.autograd import gradcheck

from aucseg_hf.errors import InputError
from aucseg_hf.losses import PixelAUCLoss, native, pixel_auc_loss

SWEEPS = ("compiled", "pytorch")


@pytest.fixture(params=SWEEPS)
def sweep(request, monkeypatch):
    """Runs a test with either sweep."""
    if request.param == "pytorch":
        monkeypatch.setattr(native, "load_library", lambda: None)
    elif native.load_library() is None:
        pytest.skip("no C++ compiler")
    return request.param


SHAPES = {
    "upsampled": ((4, 5), (9, 11)),
    "stride 4": ((4, 3), (16, 12)),
    "same size": ((7, 6), (7, 6)),
    "one cell": ((1, 1), (5, 6)),
    "reduced": ((9, 8), (5, 3)),
    "wide": ((2, 20), (6, 150)),
    "tall": ((45, 2), (150, 5)),
    "steep": ((2, 3), (300, 2)),
}


@pytest.mark.parametrize("scheme", ["ovo", "ova"])
@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [1.0, 1.7, 0.4])
@pytest.mark.parametrize("surrogate", list(PHI))
def test_equals_the_mean_over_pairs(sweep, surrogate, gamma, score, scheme):
    options = {"surrogate": surrogate, "scheme": scheme, "gamma": gamma, "score": score}
    logits, labels = random_batch()
    want, gradient = value_and_gradient(brute_force_auc, logits, labels, **options)
    value, got = value_and_gradient(pixel_auc_loss, logits, labels, **options)
    assert value == pytest.approx(want, rel=1e-12)
    assert relative_error(got, gradient) < 1e-12


@pytest.mark.parametrize("surrogate", ["square", "hinge", "exp"])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_all_shapes(sweep, shape, surrogate):
    size, full = SHAPES[shape]
    logits, labels = random_batch(size=size, full=full)
    want, gradient = value_and_gradient(brute_force_auc, logits, labels, surrogate)
    value, got = value_and_gradient(pixel_auc_loss, logits, labels, surrogate=surrogate)
    assert value == pytest.approx(want, rel=1e-12)
    assert relative_error(got, gradient) < 1e-12


@pytest.mark.parametrize("surrogate", ["square", "hinge", "exp"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Half-precision logits are exact inputs; only their gradient is rounded.
    [(torch.float32, 5e-7), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
def test_dtypes(sweep, dtype, tolerance, surrogate):
    logits, labels = random_batch(classes=7, size=(8, 8), full=(29, 31), dtype=dtype, scale=2)
    want, gradient = value_and_gradient(brute_force_auc, logits.double(), labels, surrogate)
    # Scaled as a loss scaler does, so that float16 does not flush the gradient.
    value, got = value_and_gradient(
        lambda z: 1024 * pixel_auc_loss(z, labels, surrogate=surrogate), logits
    )
    assert value / 1024 == pytest.approx(want, rel=5e-7)
    assert relative_error(got / 1024, gradient) < tolerance


@pytest.mark.parametrize("scheme", ["ovo", "ova"])
def test_hand_computed(sweep, scheme):
    # Scores of class 0 are 0.8, 0.5 | 0.2, of class 1 are 0.4, 0.1 | 0.9: differences 0.6, 0.3 for
    # class 0 and 0.5, 0.8 for class 1. With two classes both schemes are the same.
    scores = torch.tensor([[0.8, 0.5, 0.2], [0.4, 0.1, 0.9]], dtype=torch.float64)
    logits = scores.logit().view(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 1]]])
    square = ((0.4**2 + 0.7**2) / 2 + (0.5**2 + 0.2**2) / 2) / 2
    hinge = ((0.4 + 0.7) / 2 + (0.5 + 0.2) / 2) / 2
    clipped = (0.1 / 2 + 0.0) / 2  # gamma 0.4: only 0.3 falls short
    assert pixel_auc_loss(logits, labels, scheme=scheme).item() == pytest.approx(square)
    assert pixel_auc_loss(logits, labels, scheme=scheme, surrogate="hinge").item() == pytest.approx(
        hinge
    )
    assert pixel_auc_loss(
        logits, labels, scheme=scheme, surrogate="hinge", gamma=0.4
    ).item() == pytest.approx(clipped)


def test_gradcheck(sweep):
    logits, labels = random_batch(classes=3, size=(2, 3), full=(5, 4))
    for surrogate in PHI:
        for score in ("sigmoid", "softmax"):
            assert gradcheck(
                lambda z, s=surrogate, f=score: pixel_auc_loss(z, labels, surrogate=s, score=f),
                logits.clone().requires_grad_(),
            )


@pytest.mark.parametrize("present", [[], [2]])
@pytest.mark.parametrize("surrogate", ["square", "logistic"])
def test_fewer_than_two_classes_cost_nothing(sweep, present, surrogate):
    logits, labels = random_batch()
    labels = torch.full_like(labels, present[0] if present else 255)
    value, gradient = value_and_gradient(pixel_auc_loss, logits, labels, surrogate=surrogate)
    assert value == 0
    assert not gradient.any()


def test_single_pixels(sweep):
    logits, labels = random_batch()
    labels = torch.full_like(labels, 255)
    labels[0, 3, 4], labels[1, 8, 0] = 1, 3
    want, gradient = value_and_gradient(brute_force_auc, logits, labels)
    value, got = value_and_gradient(pixel_auc_loss, logits, labels)
    assert value == pytest.approx(want, rel=1e-12)
    assert relative_error(got, gradient) < 1e-12


@pytest.mark.parametrize("magnitude", [50.0, 1e4, 1e30])
@pytest.mark.parametrize("surrogate", ["square", "exp"])
def test_extreme_logits_stay_finite(sweep, magnitude, surrogate):
    logits, labels = random_batch(dtype=torch.float32, scale=magnitude)
    want, _ = value_and_gradient(brute_force_auc, logits, labels, surrogate)
    value, gradient = value_and_gradient(pixel_auc_loss, logits, labels, surrogate=surrogate)
    assert value == pytest.approx(want, rel=1e-5)
    assert gradient.isfinite().all()


def test_well_separated_logits_keep_their_precision(sweep):
    labels = torch.randint(0, 3, (1, 12, 12), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 16.0 - 8
    logits += torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    want, gradient = value_and_gradient(brute_force_auc, logits, labels)
    value, got = value_and_gradient(pixel_auc_loss, logits, labels)
    assert want < 1e-5
    # Per class, p0 + n0 + p1 n1 with positive terms only: nothing cancels.
    assert value == pytest.approx(want, rel=1e-5)
    assert relative_error(got, gradient) < 1e-5


logits_and_labels = st.tuples(
    st.integers(0, 10_000),
    st.integers(2, 5),
    st.sampled_from(["square", "hinge", "squared_hinge", "exp", "logistic"]),
)


@settings(max_examples=15, deadline=None)
@given(logits_and_labels)
def test_permuting_pixels_changes_nothing(case):
    seed, classes, surrogate = case
    logits, labels = random_batch(classes=classes, size=(6, 6), full=(6, 6), seed=seed)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(seed))
    want = pixel_auc_loss(logits, labels, surrogate=surrogate)
    got = pixel_auc_loss(
        logits.flatten(2)[..., order].view_as(logits),
        labels.flatten(1)[..., order].view_as(labels),
        surrogate=surrogate,
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@settings(max_examples=15, deadline=None)
@given(logits_and_labels)
def test_permuting_classes_changes_nothing(case):
    seed, classes, surrogate = case
    logits, labels = random_batch(classes=classes, seed=seed)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    renamed = torch.cat([order.argsort(), torch.full((256 - classes,), 255)])[labels]
    want = pixel_auc_loss(logits, labels, surrogate=surrogate)
    got = pixel_auc_loss(logits[:, order], renamed, surrogate=surrogate)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@settings(max_examples=15, deadline=None)
@given(logits_and_labels)
def test_void_pixels_and_duplicates_change_nothing(case):
    seed, classes, surrogate = case
    logits, labels = random_batch(classes=classes, seed=seed)
    want = pixel_auc_loss(logits, labels, surrogate=surrogate)
    twice = pixel_auc_loss(
        torch.cat([logits, logits]), torch.cat([labels, labels]), surrogate=surrogate
    )
    padded = pixel_auc_loss(
        torch.cat([logits, 9 * logits]),
        torch.cat([labels, torch.full_like(labels, 255)]),
        surrogate=surrogate,
    )
    torch.testing.assert_close(twice, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(padded, want, rtol=1e-12, atol=0)


def test_perfect_ranking_beats_a_reversed_one():
    logits, labels = random_batch(classes=3, size=(9, 11))
    good = 6.0 * torch.nn.functional.one_hot(labels % 3, 3).movedim(-1, 1) - 3.0
    assert pixel_auc_loss(good, labels) < 0.01
    assert pixel_auc_loss(-good, labels) > 3.5
    assert upsample(good, labels).shape == good.shape


def test_module_is_the_function():
    logits, labels = random_batch()
    module = PixelAUCLoss(surrogate="exp", scheme="ova", gamma=2.0, score="softmax")
    want = pixel_auc_loss(logits, labels, surrogate="exp", scheme="ova", gamma=2.0, score="softmax")
    assert module(logits, labels) == want
    assert "surrogate='exp', scheme='ova', gamma=2.0, score='softmax'" in repr(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surrogate": "cube"}, "square, hinge, exp, squared_hinge, logistic, got 'cube'"),
        ({"scheme": "ovr"}, "expected scheme to be one of ovo, ova, got 'ovr'"),
        ({"score": "relu"}, "expected score to be one of sigmoid, softmax, got 'relu'"),
        ({"gamma": 0.0}, "expected 0 < gamma < inf for square, got 0.0"),
        ({"gamma": float("nan")}, "got nan"),
        ({"gamma": float("inf"), "surrogate": "hinge"}, "for hinge, got inf"),
        ({"gamma": 81.0, "surrogate": "exp"}, "expected 0 < gamma <= 80 for exp, got 81.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        PixelAUCLoss(**options)
    with pytest.raises(InputError, match=message):
        pixel_auc_loss(*random_batch(), **options)
