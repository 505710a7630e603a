import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_reference import boundary_counts_by_class, random_maps

from aucseg_hf.boundary_iou import boundary_counts


def counted(prediction, label, num_labels):
    counts = boundary_counts(prediction, label, label == 255, num_labels).numpy()
    np.testing.assert_array_equal(
        counts, boundary_counts_by_class(prediction.numpy(), label.numpy(), num_labels)
    )
    return counts


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    block=st.integers(1, 30),
    height=st.integers(1, 120),
    width=st.integers(1, 200),
)
def test_equals_erosion_class_by_class(seed, block, height, width):
    coarse = (1, -(-height // block), -(-width // block))
    maps = []
    for prediction_or_label in random_maps(seed, 5, coarse):
        fine = prediction_or_label[0].repeat_interleave(block, 0).repeat_interleave(block, 1)
        maps.append(fine[:height, :width])
    counted(*maps, num_labels=5)


def test_hand_computed():
    # Diagonal 50: boundaries one pixel wide. Label: 10 x 10 square; prediction: one column less.
    label = torch.zeros(30, 40, dtype=torch.uint8)
    label[5:15, 5:15] = 1
    prediction = label.clone()
    prediction[:, 14] = 0
    counts = counted(prediction, label, 3)
    # Rims of 10 x 10 and 10 x 9; shared: the left column, and 8 more pixels above and below.
    assert counts[:, 1].tolist() == [10 + 2 * 8, 36, 34]
    # The background's rim runs along the image and around the square.
    assert counts[1, 0] == 2 * 40 + 2 * 28 + 4 * 10 + 4
    assert counts[:, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("shape", "width"), [((10, 10), 1), ((512, 512), 14), ((300, 400), 10)])
def test_width_is_two_percent_of_the_diagonal(shape, width):
    label = torch.zeros(shape, dtype=torch.int64)
    counts = boundary_counts(label, label, label == 255, 2)
    inside = (shape[0] - 2 * width) * (shape[1] - 2 * width)
    assert counts[:, 0].tolist() == [shape[0] * shape[1] - inside] * 3


def test_a_right_prediction_is_right_at_the_edge_of_void():
    label = torch.zeros(60, 80, dtype=torch.int64)
    prediction = label.clone()
    label[20:40, 30:50] = 255
    counts = counted(prediction, label, 2)
    assert counts[0, 0] == counts[1, 0] == counts[2, 0] > 0


def test_all_void():
    label = torch.full((20, 20), 255)
    assert counted(torch.zeros_like(label), label, 3).sum() == 0
