import itertools

import pytest
import torch
import torch.nn.functional as F

from aucseg_hf.errors import InputError
from aucseg_hf.losses import PixelAUCLoss, SegmentationLoss, pixel_auc_loss, segmentation_loss

PHI = {
    "square": lambda t, g: (g - t) ** 2,
    "hinge": lambda t, g: (g - t).clamp_min(0),
    "exp": lambda t, g: torch.exp(-g * t),
}


def brute_force(logits, labels, surrogate, scheme, gamma, score="sigmoid", ignore_index=255):
    logits = logits.double()
    z = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    f = z.sigmoid() if score == "sigmoid" else z.softmax(1)
    f = f.movedim(1, -1).flatten(0, 2)
    y = labels.flatten()
    present = [c for c in range(f.shape[1]) if (y == c).any()]
    terms = []
    for c in present:
        own = f[y == c, c]
        others = [c2 for c2 in present if c2 != c] if scheme == "ovo" else [None]
        for c2 in others:
            sel = (y == c2) if c2 is not None else (y != c) & (y != ignore_index)
            other = f[sel, c]
            terms.append(PHI[surrogate](own[:, None] - other[None], gamma).mean())
    return torch.stack(terms).mean() if len(present) > 1 else 0.0 * logits.sum()


@pytest.mark.parametrize(
    ("surrogate", "scheme", "score"),
    itertools.product(["square", "hinge", "exp"], ["ovo", "ova"], ["sigmoid", "softmax"]),
)
def test_equals_brute_force(surrogate, scheme, score):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (2, 9, 11))
    labels[0, :3] = 255
    want = brute_force(logits, labels, surrogate, scheme, 1.5, score)
    (gw,) = torch.autograd.grad(want, logits)
    got = pixel_auc_loss(logits, labels, surrogate=surrogate, scheme=scheme, gamma=1.5, score=score)
    (gg,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(gg, gw, rtol=1e-10, atol=1e-14)
    out = segmentation_loss(logits, labels, surrogate=surrogate, scheme=scheme, gamma=1.5, score=score, ce_weight=0.5, auc_weight=2., class_weights=[1., 2, 3, 4, 0.5], label_smoothing=0.1)
    z = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    ce = F.cross_entropy(z, labels, weight=torch.tensor([1., 2, 3, 4, 0.5], dtype=torch.float64), ignore_index=255, label_smoothing=0.1)
    (gc,) = torch.autograd.grad(ce, logits)
    (gg,) = torch.autograd.grad(out.loss, logits)
    torch.testing.assert_close(out.ce, ce, rtol=1e-12, atol=0)
    torch.testing.assert_close(gg, 0.5 * gc + 2 * gw, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("fill", [255, 1])
def test_degenerate(fill):
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    labels = torch.full((2, 4, 4), fill)
    loss = pixel_auc_loss(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0
    out = segmentation_loss(logits, labels)
    out.loss.backward()
    if fill == 255:
        assert out.loss.item() == 0
        assert logits.grad.abs().sum() == 0


def test_errors():
    with pytest.raises(InputError, match="id 37"):
        pixel_auc_loss(torch.randn(1, 19, 2, 2), torch.full((1, 2, 2), 37))
    with pytest.raises(InputError, match="square, hinge, exp"):
        PixelAUCLoss(surrogate="no")
    with pytest.raises(InputError, match="auc_weight"):
        SegmentationLoss(auc_weight=-1)
