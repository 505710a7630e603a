import base64
import csv
import json
import re

import numpy as np
import PIL.Image
import pytest
import torch
from metric_reference import smooth_scene

from aucseg_hf.bootstrap import confidence_intervals
from aucseg_hf.comparison import compare
from aucseg_hf.data import BenchmarkInfo
from aucseg_hf.evaluation import Evaluation, View
from aucseg_hf.evaluation_files import EvaluationReport
from aucseg_hf.metrics import SegmentationMetrics
from aucseg_hf.shown_images import ShownImage

GROUPS = {"head": [0, 1], "tail": [2, 3, 4]}
INFO = BenchmarkInfo("city", ("road", "<b>sky</b>", "pole", "sign", "absent"))


def evaluated(noise, with_scores=True):
    metrics = SegmentationMetrics(5, groups=GROUPS, boundary_iou=True, pixel_auc=with_scores)
    for seed in range(4):
        logits, labels = smooth_scene(seed, 4, noise=noise)
        logits = torch.cat([logits, logits[:, :1] - 50], dim=1)
        metrics.update(logits, labels)
    intervals = confidence_intervals(metrics.images, GROUPS, resamples=20)
    return Evaluation(metrics.compute(), intervals, metrics.confusion.numpy(), metrics.images)


@pytest.fixture
def report():
    evaluation = evaluated(1.5)
    image = PIL.Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    label = smooth_scene(0, 4)[1][0].numpy()
    shown = ShownImage("a&b.jpg", 0.25, image, label, np.zeros_like(label))
    return EvaluationReport(
        "my model", "val", INFO, GROUPS, evaluation, View(), [shown], [],
        baseline="other", comparison=compare(
            evaluated(3.0), evaluation, INFO.class_names, GROUPS, resamples=20
        ),
    )  # fmt: skip


def test_json_and_csv_hold_the_measures(report, tmp_path):
    files = report.write(tmp_path / "new" / "out")
    folder = tmp_path / "new" / "out"
    assert sorted(files) == sorted(path.name for path in folder.iterdir())
    content = json.loads((folder / "evaluation.json").read_text())
    measures = report.evaluation.measures
    assert content["metrics"]["mean_iou_tail"] == measures["mean_iou_tail"]
    assert content["metrics"]["per_category_iou"][4] is None
    assert content["confusion"] == report.evaluation.confusion.tolist()
    assert content["intervals"]["mean_iou"] == report.evaluation.intervals["mean_iou"].tolist()
    assert content["comparison"][0]["p_value"] == report.comparison[0]["p_value"]
    assert content["worst"] == [{"name": "a&b.jpg", "mean_iou": 0.25}]
    assert content["view"] == {"window": None, "scales": [1.0], "flip": False}

    with (folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(INFO.class_names)
    assert [row["group"] for row in rows] == ["head", "head", "tail", "tail", "tail"]
    np.testing.assert_allclose(
        [float(r["iou"]) for r in rows[:4]], measures["per_category_iou"][:4]
    )
    aucs = np.nanmean(measures["pixel_auc_matrix"][:4], axis=1)
    np.testing.assert_allclose([float(row["pixel_auc"]) for row in rows[:4]], aucs)
    assert rows[4]["iou"] == rows[4]["pixel_auc"] == rows[4]["boundary_iou"] == ""
    assert int(rows[0]["pixels"]) == measures["per_category_pixels"][0]
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["overall", "group", "group", *["class"] * 5]
    assert float(rows[2]["difference"]) == report.comparison[2]["difference"]


def test_one_page_holds_everything(report, tmp_path):
    files = report.write(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;sky&lt;/b&gt;" in page
    assert "a&amp;b.jpg, 25.00 %" in page
    assert "Compared with other" in page
    embedded = {base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)\"", page)}
    pictures = {(tmp_path / name).read_bytes() for name in files if name[-3:] in ("png", "jpg")}
    assert embedded == pictures
    assert len(pictures) == 4
    mean = report.evaluation.measures["mean_iou"]
    assert f"<td>mean IoU</td><td>{100 * mean:.2f}</td>" in page
    auc = report.evaluation.measures["pixel_auc_tail"]
    assert f"<td>{auc:.4f}</td></tr>" in page
    assert 'src="http' not in page


def test_without_scores_comparison_and_groups(tmp_path):
    evaluation = evaluated(1.5, with_scores=False)
    report = EvaluationReport("m", "val", INFO, {}, evaluation, View(flip=True))
    files = report.write(tmp_path)
    assert set(files) == {
        "evaluation.json", "classes.csv", "class_iou.png", "confusion.png", "report.html",
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "Pixel AUC" not in page
    assert "Compared" not in page


def test_nothing_half_written_is_left(report, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    write_bytes = type(tmp_path).write_bytes

    def full_disk(path, data):
        write_bytes(path, data[: len(data) // 2])
        raise OSError("no space left")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        report.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"
