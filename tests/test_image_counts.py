import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_reference import random_maps

from aucseg_hf.image_counts import ImageCounts
from aucseg_hf.metrics import SegmentationMetrics


def counts_by_definition(prediction, label, num_labels):
    valid = label != 255
    hit = [(valid & (label == c) & (prediction == c)).sum().item() for c in range(num_labels)]
    labelled = [(valid & (label == c)).sum().item() for c in range(num_labels)]
    predicted = [(valid & (prediction == c)).sum().item() for c in range(num_labels)]
    return [hit, labelled, predicted]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), void=st.sampled_from([0.0, 0.3, 1.0]))
def test_every_image_of_an_evaluation(seed, void):
    predictions, labels = random_maps(seed, 30, shape=(4, 5, 4), void=void)
    metrics = SegmentationMetrics(30)
    metrics.update(predictions, labels)
    expected = [counts_by_definition(*pair, 30) for pair in zip(predictions, labels, strict=True)]
    np.testing.assert_array_equal(metrics.images.dense(), expected)
    np.testing.assert_array_equal(metrics.images.dense(1, 3), expected[1:3])
    np.testing.assert_array_equal(metrics.images.dense(3, 9), expected[3:])
    np.testing.assert_array_equal(metrics.images.dense(5, 9), np.zeros((0, 3, 30)))
    ious = []
    for hit, labelled, predicted in expected:
        present = [c for c in range(30) if labelled[c]]
        iou = [hit[c] / (labelled[c] + predicted[c] - hit[c]) for c in present]
        ious.append(sum(iou) / len(iou) if iou else math.nan)
    np.testing.assert_allclose(metrics.images.mean_iou(), ious, rtol=1e-12)


def test_only_classes_that_occur_take_memory():
    images = ImageCounts(150)
    counts = torch.zeros(3, 150, dtype=torch.int64)
    counts[:, 3], counts[:, 149], counts[2, 7] = 5, 9, 2**31 - 1
    for _ in range(10):
        images.append(counts)
    assert images.nbytes == 10 * (3 * 16 + 4)
    assert len(images) == 10
    np.testing.assert_array_equal(images.dense(9)[0], counts)


def test_merge_appends():
    first, second = ImageCounts(2), ImageCounts(2)
    first.append(torch.tensor([[1, 0], [2, 0], [1, 1]]))
    second.append(torch.tensor([[0, 3], [0, 3], [0, 4]]))
    first.merge(second)
    np.testing.assert_array_equal(
        first.dense(), [[[1, 0], [2, 0], [1, 1]], [[0, 3], [0, 3], [0, 4]]]
    )
    assert len(second) == 1
