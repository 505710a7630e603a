import json

import numpy as np
import pytest
import torch
from metric_reference import NAN, counted, smooth_scene

from aucseg_hf.errors import InputError
from aucseg_hf.metric_table import format_report, to_jsonable


def test_report():
    groups = {"head": [0], "tail": [1, 2]}
    labels = torch.tensor([[[0, 0, 0], [1, 1, 255]]])
    predictions = torch.tensor([[[0, 0, 1], [1, 1, 2]]])
    result = counted(predictions, labels, 3, groups=groups)
    assert format_report({**result, "pixel_auc": 0.98765}, ["road", "pole", "bus"], groups) == (
        "  id  class  group pixels %    IoU %    acc %   prec %\n"
        "------------------------------------------------------\n"
        "   0  road   head     60.00    66.67    66.67   100.00\n"
        "   1  pole   tail     40.00    66.67   100.00    66.67\n"
        "   2  bus    tail      0.00        -        -        -\n"
        "------------------------------------------------------\n"
        "          mIoU %   mAcc %  pixel AUC\n"
        "overall    66.67    83.33     0.9877\n"
        "head       66.67    66.67          -\n"
        "tail       66.67   100.00          -\n"
        "overall accuracy               80.00 %\n"
        "frequency-weighted IoU         66.67 %\n"
        "mean IoU within images         66.67 %"
    )
    with pytest.raises(InputError, match="expected 3 class names, got 2"):
        format_report(result, ["road", "pole"])


def test_report_with_intervals():
    result = counted(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), 2, boundary_iou=True)
    intervals = {"mean_iou": [0.1, 0.4], "per_category_iou": np.array([[0.2, NAN], [0.7, NAN]])}
    lines = format_report(result, ["road", "pole"], intervals=intervals).splitlines()
    assert lines[0].split() == "id class group pixels % IoU % from to acc % prec %".split()
    assert lines[2].split() == "0 road 100.00 50.00 20.00 70.00 50.00 100.00".split()
    assert lines[3].split() == "1 pole 0.00 0.00 - - - 0.00".split()
    assert lines[6].split() == "overall 25.00 10.00 40.00 50.00 -".split()
    assert lines[-1].split() == "boundary IoU 25.00 %".split()


def test_result_survives_json():
    logits, labels = smooth_scene(0, 3)
    result = counted(logits, labels % 2, 3)
    restored = json.loads(json.dumps(to_jsonable(result), allow_nan=False))
    assert restored["per_category_accuracy"][2] is None
    assert restored["pixel_auc_matrix"][0][0] is None
    assert restored["pixel_auc"] == result["pixel_auc"]
    assert restored["per_category_pixels"] == result["per_category_pixels"].tolist()
    assert to_jsonable({"a": (np.float32(0.5), torch.tensor(3), "x")}) == {"a": [0.5, 3, "x"]}
