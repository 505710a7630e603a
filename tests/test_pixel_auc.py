import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_reference import counted, exact_auc_matrix, smooth_scene

from aucseg_hf.metrics import SegmentationMetrics
from aucseg_hf.pixel_auc import NUM_BINS, ScoreHistograms


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.1, 1, 30])
def test_pixel_auc_is_within_its_error_bound(seed, spread):
    logits, labels = smooth_scene(seed, num_labels=5)
    labels[labels == 3] = 255
    logits *= spread
    metrics = SegmentationMetrics(5, groups={"head": [0, 1], "tail": [3, 4]}, max_scores=None)
    metrics.update(logits, labels)
    result = metrics.compute()
    exact = exact_auc_matrix(logits, labels, 5)
    assert 0.55 < np.nanmean(exact) < 0.99
    _, bound = metrics._scores.auc()
    error = np.abs(result["pixel_auc_matrix"] - exact)
    np.testing.assert_array_equal(np.isnan(error), np.isnan(exact))
    # 1e-4: float32 interpolation may carry a score over the edge of its bin.
    assert np.all((error <= bound.numpy() + 1e-4) | np.isnan(exact))
    assert np.nanmax(error) < (0.02 if spread == 0.1 else 0.002)
    assert result["pixel_auc"] == pytest.approx(np.nanmean(exact), abs=2e-3)
    assert result["pixel_auc_tail"] == pytest.approx(np.nanmean(exact[4]), abs=0.01)
    assert result["pixel_auc_error_bound"] == pytest.approx(np.nanmean(bound.numpy()))


def test_pixel_auc_equals_sklearn():
    reference = pytest.importorskip("sklearn.metrics")
    logits, labels = smooth_scene(5, num_labels=4)
    metrics = SegmentationMetrics(4, max_scores=None)
    metrics.update(logits, labels)
    matrix = metrics.compute()["pixel_auc_matrix"]
    _, bound = metrics._scores.auc()
    scores = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear").sigmoid()[0]
    for c in range(4):
        for other in set(range(4)) - {c}:
            pair = (labels[0] == c) | (labels[0] == other)
            exact = reference.roc_auc_score(labels[0][pair] == c, scores[c][pair])
            # Half a pair: float32 interpolation may carry a score over the edge of its bin.
            assert abs(matrix[c, other] - exact) <= bound[c, other] + 1e-4
            assert bound[c, other] < 0.003


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), *[st.sampled_from([-40, -3, -1, 0, 2, 20, 25])] * 3),
        min_size=1,
        max_size=30,
    )
)
def test_pixel_auc_is_exact_with_ties_when_distinct_scores_have_distinct_bins(pixels):
    table = torch.tensor(pixels)
    labels = table[:, 0].reshape(1, 1, -1)
    logits = table[:, 1:].T.reshape(1, 3, 1, -1).float()
    np.testing.assert_allclose(
        counted(logits, labels, 3)["pixel_auc_matrix"],
        exact_auc_matrix(logits, labels, 3),
        atol=1e-12,
    )


def test_pixel_auc_separates_scores_whose_sigmoids_are_equal():
    logits = torch.tensor([[[[25.0, 20.0]], [[-25.0, -20.0]]]])
    assert torch.equal(logits.sigmoid()[0, 0, 0, 0], logits.sigmoid()[0, 0, 0, 1])
    assert counted(logits, torch.tensor([[[0, 1]]]), 2)["pixel_auc"] == 1.0


def test_huge_logits_fall_in_the_outermost_bins():
    histograms = ScoreHistograms(2)
    histograms.update(torch.tensor([[[3e38, -3e38]], [[0.0, 0.0]]]), torch.tensor([[0, 0]]))
    assert histograms.counts[0, 0, [0, -1]].tolist() == [1, 1]
    assert histograms.counts[1, 0, NUM_BINS // 2] == 2


def test_sampled_pixels_carry_the_weight_of_all():
    labels = torch.zeros(1, 64, 96, dtype=torch.int64)
    labels[:, 20:60, 10:50] = 1
    labels[:, 5:8, 70:74] = 2
    labels[:, :4] = 255
    logits = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    exact, sampled = ScoreHistograms(4, max_scores=None), ScoreHistograms(4, max_scores=4 * 300)
    void_last = labels[0].masked_fill(labels[0] == 255, 4)
    for histograms in (exact, sampled):
        histograms.update(logits[0], void_last)
    sizes = [60 * 96 - 1600 - 12, 1600, 12, 0]
    assert sampled.counts.sum(dim=2).tolist() == [sizes] * 4
    assert torch.equal(sampled.counts[:, 2], exact.counts[:, 2])
    # About 100 pixels for each of the three classes, each standing for several.
    assert sampled.counts[0, 0].max() > exact.counts[0, 0].max()
    torch.testing.assert_close(sampled.auc()[0], exact.auc()[0], atol=0.06, rtol=0, equal_nan=True)


def test_sample_is_close_to_all_pixels():
    full, sampled = SegmentationMetrics(4, max_scores=None), SegmentationMetrics(4, max_scores=4096)
    for seed in range(8):
        logits, labels = smooth_scene(seed, num_labels=4)
        full.update(logits, labels)
        sampled.update(logits, labels)
    expected, result = full.compute(), sampled.compute()
    assert expected["pixel_auc_matrix"].tolist() != result["pixel_auc_matrix"].tolist()
    np.testing.assert_allclose(
        result["pixel_auc_matrix"], expected["pixel_auc_matrix"], atol=0.02, equal_nan=True
    )
    assert result["pixel_auc"] == pytest.approx(expected["pixel_auc"], abs=3e-3)
    assert result["mean_iou"] == expected["mean_iou"]
