import warnings

import numpy as np
import pytest
import torch
from metric_reference import NAN, random_maps

from aucseg_hf.bootstrap import confidence_intervals, paired_bootstrap, resampled_iou
from aucseg_hf.errors import InputError
from aucseg_hf.image_counts import ImageCounts
from aucseg_hf.metrics import SegmentationMetrics

GROUPS = {"head": [0, 1], "tail": [3, 4]}


def evaluated(predictions, labels, num_labels=5):
    metrics = SegmentationMetrics(num_labels, groups=GROUPS)
    metrics.update(predictions, labels)
    return metrics


@pytest.fixture
def two_models():
    first, labels = random_maps(0, 5, shape=(12, 6, 7))
    labels[labels == 4] = 255
    labels[0, 2:4, 2:5] = 4  # class 4 lies in one image only
    first[first == 4] = 3
    second = torch.where(torch.arange(7) < 2, labels.clamp(max=4), first)
    second[labels == 255] = 0
    return first, second, labels


def drawn_images(num_images, resamples, seed):
    """The draw, whose blocks of 128 resamples continue one stream of random numbers."""
    rng = np.random.default_rng(seed)
    sizes = [min(128, resamples - start) for start in range(0, resamples, 128)]
    return np.concatenate([rng.integers(num_images, size=(rows, num_images)) for rows in sizes])


def iou_by_brute_force(predictions, labels, drawn):
    result = evaluated(predictions[drawn], labels[drawn]).compute()
    return {
        name: result[name]
        for name in ("mean_iou", "mean_iou_head", "mean_iou_tail", "per_category_iou")
    }


def test_resamples_equal_the_evaluation_of_the_drawn_images(two_models, monkeypatch):
    monkeypatch.setattr("aucseg_hf.bootstrap._BLOCK_IMAGES", 5)
    predictions, _, labels = two_models
    images = evaluated(predictions, labels).images
    samples = resampled_iou(images, GROUPS, resamples=150, seed=3)
    rows = [iou_by_brute_force(predictions, labels, d) for d in drawn_images(12, 150, 3)]
    for name, values in samples.items():
        np.testing.assert_allclose(values, [row[name] for row in rows], rtol=1e-12)
    assert np.isnan(samples["per_category_iou"][:, 4]).any()
    again = resampled_iou(images, GROUPS, resamples=150, seed=3)
    np.testing.assert_array_equal(again["mean_iou"], samples["mean_iou"])
    other = resampled_iou(images, GROUPS, resamples=150, seed=4)
    assert (other["mean_iou"] != samples["mean_iou"]).any()

    intervals = confidence_intervals(images, GROUPS, confidence=0.9, resamples=150, seed=3)
    for name, ends in intervals.items():
        expected = np.nanpercentile([row[name] for row in rows], [5, 95], axis=0)
        np.testing.assert_allclose(ends, expected, rtol=1e-12)


def test_paired_bootstrap_equals_brute_force(two_models):
    first, second, labels = two_models
    result = paired_bootstrap(
        *(evaluated(predictions, labels).images for predictions in (first, second)),
        GROUPS,
        resamples=140,
        seed=1,
    )
    drawn = drawn_images(12, 140, 1)
    everything = np.arange(12)
    for name, difference in result.items():
        columns = []
        for draws in ([everything], drawn):
            rows = [
                [iou_by_brute_force(p, labels, d)[name] for d in draws] for p in (first, second)
            ]
            columns.append(np.array(rows[1]) - np.array(rows[0]))
        np.testing.assert_allclose(difference.value, columns[0][0], rtol=1e-12)
        sample = columns[1].reshape(140, -1)
        for c, p_value in enumerate(np.atleast_1d(difference.p_value)):
            known = sample[:, c][~np.isnan(sample[:, c])]
            tail = min(sum(known <= 0), sum(known >= 0))
            assert p_value == pytest.approx(min(1, 2 * (1 + tail) / (1 + len(known))))
            ends = difference.interval.reshape(2, -1)[:, c]
            np.testing.assert_allclose(ends, np.percentile(known, [2.5, 97.5]), rtol=1e-9)
    assert result["mean_iou"].value > 0
    assert result["mean_iou"].p_value == pytest.approx(2 / 141)


def test_a_model_does_not_differ_from_itself(two_models):
    predictions, _, labels = two_models
    images = evaluated(predictions, labels).images
    for difference in paired_bootstrap(images, images, GROUPS, resamples=50).values():
        assert np.all(difference.value == 0)
        assert np.all(difference.interval == 0)
        assert np.all(difference.p_value == 1)


def test_absent_classes_are_nan_without_warnings():
    labels = torch.tensor([[[0, 0, 1]], [[0, 1, 1]]])
    images = evaluated(labels, labels).images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = confidence_intervals(images, GROUPS, resamples=20)
        difference = paired_bootstrap(images, images, GROUPS, resamples=20)
    np.testing.assert_array_equal(intervals["per_category_iou"], [[1, 1, NAN, NAN, NAN]] * 2)
    np.testing.assert_array_equal(intervals["mean_iou_tail"], [NAN, NAN])
    np.testing.assert_array_equal(difference["per_category_iou"].p_value, [1, 1, NAN, NAN, NAN])


def test_intervals_cover_the_truth():
    """Images whose IoU is 1 or 1/3: the interval holds the true mean about as often as it says."""
    rng = np.random.default_rng(0)
    right, wrong = (torch.tensor([[h, 0], [2, 0], [p, 0]]) for h, p in ((2, 2), (1, 2)))
    covered = 0
    for trial in range(100):
        images = ImageCounts(2)
        for good in rng.random(100) < 0.5:
            images.append(right if good else wrong)
        low, high = confidence_intervals(images, resamples=200, seed=trial)["mean_iou"]
        # 1.5 hits of 2 labelled and 2 predicted pixels on average.
        covered += low <= 1.5 / 2.5 <= high
    assert 88 <= covered <= 99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "one resample, got 1 and 0"),
        ({"confidence": 1.0}, "0 < confidence < 1, got 1.0"),
    ],
)
def test_bad_options_are_named(options, message):
    images = evaluated(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long()).images
    with pytest.raises(InputError, match=message):
        confidence_intervals(images, **options)


def test_other_images_are_refused(two_models):
    first, second, labels = two_models
    images = evaluated(first, labels).images
    with pytest.raises(InputError, match="12 images of 5 classes and 11 of 5"):
        paired_bootstrap(images, evaluated(second[1:], labels[1:]).images)
    with pytest.raises(InputError, match="labels of image 0 differ"):
        paired_bootstrap(images, evaluated(second, labels.flip(0)).images)
    with pytest.raises(InputError, match="at least one image"):
        confidence_intervals(ImageCounts(5))
