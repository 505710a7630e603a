import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import random_batch, reference_ce, relative_error, value_and_gradient

from aucseg_hf.losses import moments, native, segmentation_loss
from aucseg_hf.losses.surrogates import make_surrogate
from aucseg_hf.losses.upsampling import Axis, exact_products


def auc_by_moments(logits, labels, surrogate):
    """One-versus-one AUC from full-resolution float64 scores: the six sums, under autograd."""
    phi = make_surrogate(surrogate, 1.0)
    z = F.interpolate(logits.double(), labels.shape[-2:], mode="bilinear")
    scores = z.sigmoid().movedim(1, -1)[labels != 255]
    ids = labels[labels != 255]
    classes = ids.unique().tolist()
    means = {}
    for c in classes:
        own, other = phi.positive(scores[ids == c]), phi.negative(scores[ids == c])
        means[c] = [
            (term + torch.zeros_like(scores[ids == c])).mean(0) for term in (*own[:2], *other[:2])
        ]
    values = [
        means[c][0][c] + means[d][2][c] + means[c][1][c] * means[d][3][c]
        for c, d in itertools.permutations(classes, 2)
    ]
    return torch.stack(values).mean()


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", ["square", "exp"])
@pytest.mark.parametrize("compiled", [True, False])
def test_float32_precision_at_full_size(surrogate, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native, "load_library", lambda: None)
    logits, _ = random_batch(2, 19, (128, 128), (8, 8), dtype=torch.float32, scale=3)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 19, (2, 32, 32), generator=generator)
    labels = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :, :7] = 255
    ce, ce_gradient = value_and_gradient(reference_ce, logits, labels)
    auc, auc_gradient = value_and_gradient(auc_by_moments, logits.double(), labels, surrogate)
    output = segmentation_loss(logits, labels, surrogate=surrogate)
    _, gradient = value_and_gradient(
        lambda z: segmentation_loss(z, labels, surrogate=surrogate).loss, logits
    )
    assert output.ce.item() == pytest.approx(ce, rel=5e-7)
    assert output.auc.item() == pytest.approx(auc, rel=5e-7)
    assert relative_error(gradient, ce_gradient.double() + auc_gradient) < 5e-7


@pytest.mark.parametrize("pixels", [1, 40, 200, 1 << 14])
def test_chunks_do_not_matter(pixels, monkeypatch):
    monkeypatch.setattr(native, "load_library", lambda: None)
    logits, labels = random_batch(batch=5)
    want, gradient = value_and_gradient(lambda z: segmentation_loss(z, labels).loss, logits)
    monkeypatch.setitem(moments._CHUNK_PIXELS, "cpu", pixels)
    value, got = value_and_gradient(lambda z: segmentation_loss(z, labels).loss, logits)
    assert value == pytest.approx(want, rel=1e-13)
    assert relative_error(got, gradient) < 1e-13


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_axis_is_bilinear_interpolation_and_its_transpose(inputs, outputs, step):
    axis = Axis(inputs, outputs, step, torch.float64, torch.device("cpu"))
    values = torch.randn(3, inputs, dtype=torch.float64, requires_grad=True)
    want = F.interpolate(values[None], size=outputs, mode="linear", align_corners=False)[0]
    gradient = torch.randn_like(want)
    (transposed,) = torch.autograd.grad(want, values, gradient)
    torch.testing.assert_close(axis.upsample_rows(values.detach()), want.detach())
    torch.testing.assert_close(axis.pull_back_rows(gradient), transposed)


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9"
)
def test_tensor_float32_is_off_during_the_sweep_and_back_afterwards():
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        with exact_products(torch.device("cuda")):
            assert settings.fp32_precision == "ieee"
        assert settings.fp32_precision == "tf32"
    finally:
        settings.fp32_precision = before
