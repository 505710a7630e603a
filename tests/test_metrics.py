import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from aucseg_hf.errors import InputError
from aucseg_hf.metrics import SegmentationMetrics, format_report, to_jsonable, upsampled_argmax
from aucseg_hf.pixel_auc import NUM_BINS, ScoreHistograms

NAN = math.nan


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


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_equals_the_published_example_of_evaluate_mean_iou():
    pairs = [
        ([[1, 2], [3, 4], [5, 255]], [[0, 3], [5, 4], [6, 255]]),
        ([[2, 7], [9, 2], [3, 6]], [[1, 7], [9, 2], [3, 6]]),
        ([[2, 2, 3], [8, 2, 4], [3, 255, 2]], [[1, 2, 2], [8, 2, 1], [3, 255, 1]]),
    ]
    metrics = SegmentationMetrics(num_labels=10)
    for predictions, labels in pairs:
        metrics.update(torch.tensor([predictions]), torch.tensor([labels]))
    result = metrics.compute()
    assert result["mean_iou"] == pytest.approx(0.4775)
    assert result["mean_accuracy"] == pytest.approx(0.5916666666666666)
    assert result["overall_accuracy"] == pytest.approx(0.5263157894736842)
    np.testing.assert_allclose(result["per_category_iou"], [0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(
        result["per_category_accuracy"], [0, 0, 0.75, 2 / 3, 1, 0, 0.5, 1, 1, 1]
    )


def test_hand_computed_values():
    # Class 2 is predicted but never labelled, class 3 is neither.
    labels = torch.tensor([[[0, 0, 0, 1]], [[1, 255, 0, 0]]])
    predictions = torch.tensor([[[0, 0, 1, 1]], [[2, 3, 0, 0]]])
    result = counted(
        predictions, labels, 4, groups={"head": [0], "middle": [1, 2], "tail": [3], "none": []}
    )
    np.testing.assert_allclose(result["per_category_iou"], [4 / 5, 1 / 3, 0, NAN])
    np.testing.assert_allclose(result["per_category_accuracy"], [4 / 5, 1 / 2, NAN, NAN])
    np.testing.assert_allclose(result["per_category_precision"], [1, 1 / 2, 0, NAN])
    np.testing.assert_array_equal(result["per_category_pixels"], [5, 2, 0, 0])
    assert result["mean_iou"] == pytest.approx((4 / 5 + 1 / 3 + 0) / 3)
    assert result["overall_accuracy"] == pytest.approx(5 / 7)
    assert result["frequency_weighted_iou"] == pytest.approx(5 / 7 * 4 / 5 + 2 / 7 / 3)
    # First image: 2/3 and 1/2; second image: 1 for class 0, 0 for classes 1 and 2.
    assert result["mean_iou_image"] == pytest.approx(((2 / 3 + 1 / 2) / 2 + 1 / 3) / 2)
    assert result["mean_iou_head"] == pytest.approx(4 / 5)
    assert result["mean_iou_middle"] == pytest.approx(1 / 6)
    assert result["mean_accuracy_middle"] == pytest.approx(1 / 2)
    assert math.isnan(result["mean_iou_tail"])
    assert math.isnan(result["mean_iou_none"])
    assert "pixel_auc" not in result


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), num_labels=st.integers(2, 6))
def test_equals_sklearn_on_random_maps(seed, num_labels):
    reference = pytest.importorskip("sklearn.metrics")
    predictions, labels = random_maps(seed, num_labels)
    result = counted(predictions, labels, num_labels)
    valid = labels != 255
    truth, guess = labels[valid].numpy(), predictions[valid].numpy()
    options = {"labels": range(num_labels), "average": None, "zero_division": NAN}
    np.testing.assert_allclose(
        result["per_category_iou"],
        reference.jaccard_score(truth, guess, **{**options, "zero_division": 0}),
    )
    np.testing.assert_allclose(
        result["per_category_accuracy"], reference.recall_score(truth, guess, **options)
    )
    np.testing.assert_allclose(
        result["per_category_precision"], reference.precision_score(truth, guess, **options)
    )
    assert result["overall_accuracy"] == pytest.approx(reference.accuracy_score(truth, guess))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_dtypes_and_another_ignore_index(dtype):
    predictions, labels = random_maps(3, 5)
    expected = counted(predictions, labels, 5)
    assert_same(counted(predictions.to(dtype), labels.to(dtype), 5), expected)
    if dtype != torch.uint8:
        shifted = torch.where(labels == 255, -100, labels).to(dtype)
        assert_same(counted(predictions, shifted, 5, ignore_index=-100), expected)


def test_a_void_class_inside_the_range_is_left_out():
    labels = torch.tensor([[[0, 1, 1, 2]]])
    result = counted(torch.tensor([[[1, 1, 2, 2]]]), labels, 3, ignore_index=0)
    np.testing.assert_allclose(result["per_category_iou"], [NAN, 1 / 2, 1 / 2])


@pytest.mark.parametrize(
    ("low", "size"), [((7, 5), (28, 20)), ((7, 5), (31, 23)), ((9, 9), (9, 9)), ((12, 8), (5, 6))]
)
def test_logits_count_as_the_argmax_of_their_upsampling(low, size, monkeypatch):
    monkeypatch.setattr("aucseg_hf.metrics._CHUNK_PIXELS", 3 * size[0] * size[1])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, *low, generator=generator)
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    for image, full in zip(logits, upsampled, strict=True):
        assert torch.equal(upsampled_argmax(image, size), full.argmax(dim=0))
    labels = torch.randint(0, 7, (2, *size), generator=generator)
    from_logits = SegmentationMetrics(7)
    from_logits.update(logits, labels)
    from_maps = SegmentationMetrics(7)
    from_maps.update(upsampled.argmax(dim=1), labels)
    assert torch.equal(from_logits.confusion, from_maps.confusion)


def test_argmax_takes_the_first_of_equal_classes():
    assert torch.equal(upsampled_argmax(torch.zeros(3, 2, 2), (4, 4)), torch.zeros(4, 4).long())


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
    matrix = counted(logits, labels, 4, max_scores=None)["pixel_auc_matrix"]
    scores = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear").sigmoid()[0]
    for c in range(4):
        for other in set(range(4)) - {c}:
            pair = (labels[0] == c) | (labels[0] == other)
            exact = reference.roc_auc_score(labels[0][pair] == c, scores[c][pair])
            assert matrix[c, other] == pytest.approx(exact, abs=2e-3)


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


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(0, 4), seed=st.integers(0, 1000))
def test_merged_parts_equal_the_whole(cut, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 4, 4, generator=generator)
    _, labels = random_maps(seed, 3, shape=(4, 8, 8))
    whole, first, second = (SegmentationMetrics(3, groups={"tail": [2]}) for _ in range(3))
    whole.update(logits, labels)
    for part, rows in ((first, slice(cut)), (second, slice(cut, 4))):
        for index in range(4)[rows]:
            part.update(logits[index : index + 1], labels[index : index + 1])
    second.merge(first)
    assert_same(second.compute(), whole.compute())
    whole.reset()
    assert whole.confusion.sum() == 0
    assert "pixel_auc" not in whole.compute()


def test_merge_refuses_other_classes():
    with pytest.raises(InputError, match="num_labels 3 to merge, got 4"):
        SegmentationMetrics(3).merge(SegmentationMetrics(4))


def _reduce_on_rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    metrics = SegmentationMetrics(4, groups={"tail": [3]})
    if rank == 1:  # rank 0 has no image at all
        for seed in range(2):
            metrics.update(*smooth_scene(seed, 4, size=32))
    metrics.all_reduce()
    torch.save(metrics.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_reduce_gives_every_rank_the_whole(tmp_path):
    mp.spawn(_reduce_on_rank, args=(str(tmp_path),), nprocs=2)
    expected = SegmentationMetrics(4, groups={"tail": [3]})
    for seed in range(2):
        expected.update(*smooth_scene(seed, 4, size=32))
    for rank in range(2):
        reduced = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert_same(reduced, expected.compute())


def test_all_reduce_without_processes_changes_nothing():
    predictions, labels = random_maps(0, 3)
    metrics = SegmentationMetrics(3)
    metrics.update(predictions, labels)
    before = metrics.confusion.clone()
    metrics.all_reduce()
    assert torch.equal(metrics.confusion, before)


@pytest.mark.parametrize("output", [torch.zeros(2, 4, 4).long(), torch.zeros(2, 3, 2, 2)])
def test_all_void_gives_nan_without_warnings(output):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = counted(output, torch.full((2, 4, 4), 255), 3, groups={"tail": [2], "head": []})
        report = format_report(result, ["a", "b", "c"], {"tail": [2], "head": []})
    for key, value in result.items():
        assert key == "per_category_pixels" or np.isnan(value).all(), key
    assert "nan" not in report


def test_void_images_do_not_enter_the_image_mean():
    labels = torch.tensor([[[0, 0]], [[255, 255]]])
    assert counted(torch.tensor([[[0, 1]], [[0, 0]]]), labels, 2)["mean_iou_image"] == 0.25


MAP = torch.zeros(1, 2, 2).long()


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (MAP, torch.tensor([[[0, 1], [2, 3]]]), r"labels in 0\.\.2 or ignore_index 255, got 3"),
        (MAP, torch.tensor([[[0, -1], [2, 2]]]), r"labels in 0\.\.2 .* got -1"),
        (MAP + 7, MAP, r"predictions in 0\.\.2, got 7"),
        (MAP, torch.zeros(1, 2, 3).long(), r"size \[1, 2, 3\], got \[1, 2, 2\]"),
        (MAP[0], MAP[0], r"integer labels \[B, H, W\], got torch.int64 \[2, 2\]"),
        (MAP, MAP.float(), r"integer labels \[B, H, W\], got torch.float32"),
        (torch.zeros(1, 4, 2, 2), MAP, r"logits \[1, 3, h, w\] .* got \[1, 4, 2, 2\]"),
        (torch.zeros(2, 3, 2, 2), MAP, r"logits \[1, 3, h, w\] .* got \[2, 3, 2, 2\]"),
        (torch.full((1, 3, 2, 2), NAN), MAP, "expected finite logits"),
    ],
)
def test_bad_input_is_named_and_not_counted(output, labels, message):
    metrics = SegmentationMetrics(3)
    with pytest.raises(InputError, match=message):
        metrics.update(output, labels)
    assert metrics.confusion.sum() == 0


def test_bad_options_are_named():
    with pytest.raises(InputError, match=r"0\.\.2 in group 'tail', got 3"):
        SegmentationMetrics(3, groups={"tail": [1, 3]})
    with pytest.raises(InputError, match="num_labels >= 2, got 1"):
        SegmentationMetrics(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logit_dtypes(dtype):
    logits, labels = smooth_scene(1, 4)
    logits = logits.to(dtype)
    expected = counted(logits.float(), labels, 4)
    assert_same(counted(logits, labels, 4), expected)


def test_report():
    groups = {"head": [0], "tail": [1, 2]}
    labels = torch.tensor([[[0, 0, 0], [1, 1, 255]]])
    predictions = torch.tensor([[[0, 0, 1], [1, 1, 2]]])
    result = counted(predictions, labels, 3, groups=groups)
    assert format_report({**result, "pixel_auc": 0.98765}, ["road", "pole", "bus"], groups) == (
        "  id  class  group pixels %    IoU %    acc %\n"
        "---------------------------------------------\n"
        "   0  road   head     60.00    66.67    66.67\n"
        "   1  pole   tail     40.00    66.67   100.00\n"
        "   2  bus    tail      0.00        -        -\n"
        "---------------------------------------------\n"
        "          mIoU %   mAcc %  pixel AUC\n"
        "overall    66.67    83.33     0.9877\n"
        "head       66.67    66.67          -\n"
        "tail       66.67   100.00          -\n"
        "overall accuracy    80.00 %"
    )
    with pytest.raises(InputError, match="expected 3 class names, got 2"):
        format_report(result, ["road", "pole"])


def test_result_survives_json():
    logits, labels = smooth_scene(0, 3)
    result = counted(logits, labels % 2, 3)
    restored = json.loads(json.dumps(to_jsonable(result), allow_nan=False))
    assert restored["per_category_accuracy"][2] is None
    assert restored["pixel_auc_matrix"][0][0] is None
    assert restored["pixel_auc"] == result["pixel_auc"]
    assert restored["per_category_pixels"] == result["per_category_pixels"].tolist()
    assert to_jsonable({"a": (np.float32(0.5), torch.tensor(3), "x")}) == {"a": [0.5, 3, "x"]}
