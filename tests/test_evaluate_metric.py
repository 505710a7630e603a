import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from metric_reference import (
    PUBLISHED_LABELS,
    PUBLISHED_PREDICTIONS,
    assert_published,
    counted,
    random_maps,
    smooth_scene,
)

from aucseg_hf.errors import InputError
from aucseg_hf.evaluate_metric import SegmentationMetric


def test_equals_the_published_example_of_mean_iou():
    metric = SegmentationMetric(num_labels=10)
    assert_published(metric.compute(predictions=PUBLISHED_PREDICTIONS, references=PUBLISHED_LABELS))
    for prediction, label in zip(PUBLISHED_PREDICTIONS, PUBLISHED_LABELS, strict=True):
        metric.add(prediction=np.array(prediction), reference=torch.tensor(label))
    assert_published(metric.compute())
    metric.add_batch(predictions=PUBLISHED_PREDICTIONS[:2], references=PUBLISHED_LABELS[:2])
    metric.add_batch(predictions=PUBLISHED_PREDICTIONS[2:], references=PUBLISHED_LABELS[2:])
    assert_published(metric.compute())
    assert np.isnan(metric.compute()["mean_iou"])


def test_takes_logits_and_options():
    logits, labels = smooth_scene(0, 4)
    options = {"groups": {"tail": [3]}, "boundary_iou": True}
    metric = SegmentationMetric(4, **options)
    result = metric.compute(predictions=logits, references=labels)
    for key, value in counted(logits, labels, 4, **options).items():
        np.testing.assert_array_equal(result[key], value, err_msg=key)


def test_bad_input_is_named():
    predictions, labels = random_maps(0, 3)
    with pytest.raises(InputError, match=r"predictions in 0\.\.1, got 2"):
        SegmentationMetric(2).add_batch(predictions=predictions, references=labels % 2)


@pytest.mark.slow
def test_works_offline_and_writes_no_file(tmp_path):
    script = """
import socket
socket.socket.connect = None
from aucseg_hf.evaluate_metric import SegmentationMetric
metric = SegmentationMetric(num_labels=2)
metric.add(prediction=[[0, 1]], reference=[[0, 0]])
print(metric.compute()["overall_accuracy"])
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.stdout == "0.5\n", result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob("segmentation_metric"))
