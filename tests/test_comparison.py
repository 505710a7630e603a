import numpy as np
import pytest
import torch
from metric_reference import NAN, random_maps

from aucseg_hf.bootstrap import confidence_intervals, paired_bootstrap
from aucseg_hf.comparison import compare, format_comparison
from aucseg_hf.evaluation import Evaluation
from aucseg_hf.metrics import SegmentationMetrics

GROUPS = {"head": [0], "tail": [1, 2]}


def evaluated(predictions, labels):
    metrics = SegmentationMetrics(3, groups=GROUPS)
    metrics.update(predictions, labels)
    intervals = confidence_intervals(metrics.images, GROUPS, resamples=10)
    return Evaluation(metrics.compute(), intervals, metrics.confusion.numpy(), metrics.images)


def test_rows_are_the_paired_bootstrap():
    first, labels = random_maps(0, 3, shape=(6, 5, 5))
    second, _ = random_maps(0, 3, shape=(6, 5, 5), void=0)
    second[:, :2] = 0
    baseline, model = evaluated(first, labels), evaluated(second, labels)
    rows = compare(baseline, model, ["road", "pole", "sky"], GROUPS, resamples=30)
    names = ["overall", "head", "tail", "road", "pole", "sky"]
    assert [row["name"] for row in rows] == names
    expected = paired_bootstrap(baseline.images, model.images, GROUPS, resamples=30)
    for row, key in zip(rows[:3], ["mean_iou", "mean_iou_head", "mean_iou_tail"], strict=True):
        assert row["difference"] == pytest.approx(model.measures[key] - baseline.measures[key])
        assert (row["baseline"], row["model"]) == (baseline.measures[key], model.measures[key])
        assert (row["low"], row["high"]) == tuple(expected[key].interval)
        assert row["p_value"] == expected[key].p_value
    classes = expected["per_category_iou"]
    assert [row["p_value"] for row in rows[3:]] == classes.p_value.tolist()
    assert [row["low"] for row in rows[3:]] == classes.interval[0].tolist()
    assert [row["difference"] for row in rows[3:]] == classes.value.tolist()


def test_a_model_equals_itself():
    predictions, labels = random_maps(1, 3)
    evaluation = evaluated(predictions, labels)
    for row in compare(evaluation, evaluation, ["a", "b", "c"], GROUPS, resamples=20):
        assert (row["difference"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)


def test_table():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    rows = compare(
        evaluated(torch.tensor([[[0, 1, 1, 1]]]), labels), evaluated(labels, labels),
        ["road", "pole", "sky"], GROUPS, resamples=9,
    )  # fmt: skip
    lines = [line.split() for line in format_comparison(rows).splitlines()]
    assert lines[0] == ["baseline", "model", "change", "from", "to", "p"]
    assert lines[3] == ["head", "50.00", "100.00", "+50.00", "+50.00", "+50.00", "0.200"]
    assert lines[-1] == ["sky", "-", "-", "-", "-", "-", "-"]
    assert np.isnan([NAN, rows[-1]["p_value"]]).all()
