"""The losses by their definitions: every pair of pixels, full-resolution logits, autograd."""

import torch
import torch.nn.functional as F

PHI = {
    "square": lambda t, gamma: (gamma - t) ** 2,
    "hinge": lambda t, gamma: (gamma - t).clamp_min(0),
    "squared_hinge": lambda t, gamma: (gamma - t).clamp_min(0) ** 2,
    "exp": lambda t, gamma: torch.exp(-gamma * t),
    "logistic": lambda t, gamma: torch.log(1 + torch.exp(-gamma * t)),
}


def upsample(logits, labels):
    return F.interpolate(
        logits.double(), size=labels.shape[-2:], mode="bilinear", align_corners=False
    )


def brute_force_auc(
    logits,
    labels,
    surrogate="square",
    scheme="ovo",
    gamma=1.0,
    score="sigmoid",
    ignore_index=255,
):
    z = upsample(logits, labels)
    scores = (z.sigmoid() if score == "sigmoid" else z.softmax(1)).movedim(1, -1)
    valid = labels != ignore_index
    scores, ids = scores[valid], labels[valid]
    classes = ids.unique().tolist()
    means = []
    for c in classes:
        others = [ids == d for d in classes if d != c] if scheme == "ovo" else [ids != c]
        for other in others:
            t = scores[ids == c, c][:, None] - scores[other, c][None]
            means.append(PHI[surrogate](t, gamma).mean())
    return torch.stack(means).mean()


def reference_ce(logits, labels, class_weights=None, label_smoothing=0.0, ignore_index=255):
    return F.cross_entropy(
        upsample(logits, labels),
        labels.long(),
        weight=None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )


def value_and_gradient(function, logits, *args, **kwargs):
    """Value as float and gradient in float64 of a function of the logits."""
    logits = logits.detach().clone().requires_grad_()
    value = function(logits, *args, **kwargs)
    value.backward()
    return value.item(), logits.grad.double()


def relative_error(got, want):
    """Largest difference of two gradients over the largest entry."""
    return ((got - want).abs().max() / want.abs().max()).item()


def random_batch(
    batch=2, classes=5, size=(4, 5), full=(9, 11), dtype=torch.float64, seed=0, scale=1.0
):
    """Logits and labels with void pixels and, for more than two classes, one class absent."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, max(classes - 1, 2), (batch, *full), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return logits.to(dtype), labels
