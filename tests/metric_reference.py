"""Maps and scores to measure, and the measures by their definitions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aucseg_hf.metrics import SegmentationMetrics

NAN = math.nan

# The example on the metric card of mean_iou (huggingface/evaluate).
PUBLISHED_PREDICTIONS = [
    [[1, 2], [3, 4], [5, 255]],
    [[2, 7], [9, 2], [3, 6]],
    [[2, 2, 3], [8, 2, 4], [3, 255, 2]],
]
PUBLISHED_LABELS = [
    [[0, 3], [5, 4], [6, 255]],
    [[1, 7], [9, 2], [3, 6]],
    [[1, 2, 2], [8, 2, 1], [3, 255, 1]],
]


def assert_published(result):
    """Compare with the values printed on that card."""
    assert result["mean_iou"] == pytest.approx(0.47750000000000004)
    assert result["mean_accuracy"] == pytest.approx(0.5916666666666666)
    assert result["overall_accuracy"] == pytest.approx(0.5263157894736842)
    np.testing.assert_allclose(result["per_category_iou"], [0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(
        result["per_category_accuracy"], [0, 0, 0.75, 0.666666667, 1, 0, 0.5, 1, 1, 1]
    )


def random_maps(seed, num_labels, shape=(3, 9, 11), void=0.1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_labels, shape, generator=generator)
    wrong = torch.rand(shape, generator=generator) < 0.4
    predictions = torch.where(
        wrong, torch.randint(0, num_labels, shape, generator=generator), labels
    )
    labels[torch.rand(shape, generator=generator) < void] = 255
    return predictions, labels


def smooth_scene(seed, num_labels, size=64, noise=1.5):
    """Blobs of all classes and low-resolution logits that mostly agree with them."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, num_labels, 8, 8, generator=generator)
    field = F.interpolate(field, (size, size), mode="bicubic")
    labels = field.argmax(dim=1)
    labels[:, :2] = 255
    logits = F.avg_pool2d(field, 4) * 2
    return logits + noise * torch.randn(logits.shape, generator=generator), labels


def counted(predictions_or_logits, labels, num_labels, **options):
    metrics = SegmentationMetrics(num_labels, **options)
    metrics.update(predictions_or_logits, labels)
    return metrics.compute()


def exact_auc_matrix(logits, labels, num_labels):
    """One-versus-one AUC of the upsampled logits by comparing every pair of pixels."""
    scores = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear")
    scores, truth = scores.movedim(1, -1).flatten(0, 2), labels.flatten()
    matrix = torch.full((num_labels, num_labels), NAN, dtype=torch.float64)
    for c in range(num_labels):
        for other in set(range(num_labels)) - {c}:
            difference = scores[truth == c, c][:, None] - scores[truth == other, c]
            wins = (difference > 0).double() + (difference == 0).double() / 2
            matrix[c, other] = wins.mean() if wins.numel() else NAN
    return matrix.numpy()


def eroded(mask, distance):
    """Take ``distance`` rims of one pixel off a bool mask [H, W]; outside the image it is empty."""
    for _ in range(distance):
        padded = np.pad(mask, 1)
        shifted = [
            padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)
        ]
        mask = np.all(shifted, axis=0)
    return mask


def boundary_counts_by_class(prediction, label, num_labels, ignore_index=255):
    """Boundary pixels [3, K] class by class: in both, in the label's, in the prediction's."""
    distance = max(1, round(0.02 * math.sqrt(label.shape[0] ** 2 + label.shape[1] ** 2)))
    valid = label != ignore_index
    counts = np.zeros((3, num_labels), dtype=np.int64)
    for c in range(num_labels):
        in_label, in_prediction = (
            mask & ~eroded(mask, distance)
            for mask in ((label == c) & valid, (prediction == c) & valid)
        )
        both = in_label & in_prediction
        counts[:, c] = both.sum(), in_label.sum(), in_prediction.sum()
    return counts
