import math
import warnings

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_reference import (
    NAN,
    PUBLISHED_LABELS,
    PUBLISHED_PREDICTIONS,
    assert_published,
    boundary_counts_by_class,
    counted,
    random_maps,
    smooth_scene,
)

from aucseg_hf.errors import InputError
from aucseg_hf.metric_table import format_report
from aucseg_hf.metrics import SegmentationMetrics, upsampled_argmax


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_equals_the_published_example_of_evaluate_mean_iou():
    metrics = SegmentationMetrics(num_labels=10)
    for predictions, labels in zip(PUBLISHED_PREDICTIONS, PUBLISHED_LABELS, strict=True):
        metrics.update(torch.tensor([predictions]), torch.tensor([labels]))
    assert_published(metrics.compute())


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
    # First image: 2/3 and 1/2; second image, which has no label of class 2: 1 and 0.
    assert result["mean_iou_image"] == pytest.approx(((2 / 3 + 1 / 2) / 2 + 1 / 2) / 2)
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


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(0, 4), seed=st.integers(0, 1000))
def test_merged_parts_equal_the_whole(cut, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 4, 4, generator=generator)
    _, labels = random_maps(seed, 3, shape=(4, 8, 8))
    whole, first, second = (
        SegmentationMetrics(3, groups={"tail": [2]}, boundary_iou=True) for _ in range(3)
    )
    whole.update(logits, labels)
    for part, rows in ((first, slice(cut)), (second, slice(cut, 4))):
        for index in range(4)[rows]:
            part.update(logits[index : index + 1], labels[index : index + 1])
    first.merge(second)
    assert_same(first.compute(), whole.compute())
    np.testing.assert_array_equal(first.images.dense(), whole.images.dense())
    whole.reset()
    assert whole.confusion.sum() == 0
    assert "pixel_auc" not in whole.compute()


def test_merge_refuses_other_classes():
    with pytest.raises(InputError, match="num_labels 3 to merge, got 4"):
        SegmentationMetrics(3).merge(SegmentationMetrics(4))
    with pytest.raises(InputError, match="boundary_iou False to merge, got True"):
        SegmentationMetrics(3).merge(SegmentationMetrics(3, boundary_iou=True))


RANK_IMAGES = [(), (0, 1), (2,)]  # the first rank has no image at all


def _reduce_on_rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(RANK_IMAGES)
    )
    metrics = SegmentationMetrics(4, groups={"tail": [3]}, boundary_iou=True)
    for seed in RANK_IMAGES[rank]:
        metrics.update(*smooth_scene(seed, 4, size=32))
    metrics.all_reduce()
    torch.save((metrics.compute(), metrics.images.dense()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_reduce_gives_every_rank_the_whole(tmp_path):
    mp.spawn(_reduce_on_rank, args=(str(tmp_path),), nprocs=len(RANK_IMAGES))
    expected = SegmentationMetrics(4, groups={"tail": [3]}, boundary_iou=True)
    for seed in range(3):
        expected.update(*smooth_scene(seed, 4, size=32))
    for rank in range(len(RANK_IMAGES)):
        reduced, images = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert_same(reduced, expected.compute())
        np.testing.assert_array_equal(images, expected.images.dense())


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
        labels = torch.full((2, 4, 4), 255)
        result = counted(output, labels, 3, groups={"tail": [2], "head": []}, boundary_iou=True)
        report = format_report(result, ["a", "b", "c"], {"tail": [2], "head": []})
    for key, value in result.items():
        assert key == "per_category_pixels" or np.isnan(value).all(), key
    assert "nan" not in report


def test_no_images_give_nan_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = SegmentationMetrics(3, groups={"tail": [2]}, boundary_iou=True).compute()
    assert all(
        np.isnan(value).all() for key, value in result.items() if key != "per_category_pixels"
    )


def test_boundary_iou_sums_pixels_over_images():
    groups = {"tail": [3, 4]}
    predictions, labels = random_maps(1, 5, shape=(3, 40, 60))
    predictions[:, 10:30, 10:40], labels[:, 12:30, 10:36] = 2, 2
    counts = sum(
        boundary_counts_by_class(p.numpy(), y.numpy(), 5)
        for p, y in zip(predictions, labels, strict=True)
    )
    expected = counts[0] / (counts[1] + counts[2] - counts[0])
    result = counted(predictions, labels, 5, groups=groups, boundary_iou=True)
    np.testing.assert_allclose(result["per_category_boundary_iou"], expected)
    assert result["mean_boundary_iou"] == pytest.approx(expected.mean())
    assert result["mean_boundary_iou_tail"] == pytest.approx(expected[3:].mean())
    assert result["per_category_boundary_iou"][2] < result["per_category_iou"][2]


def test_void_images_do_not_enter_the_image_mean():
    labels = torch.tensor([[[0, 0]], [[255, 255]]])
    assert counted(torch.tensor([[[0, 1]], [[0, 0]]]), labels, 2)["mean_iou_image"] == 0.5


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
