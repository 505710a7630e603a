"""scripts/evaluate.py as a user starts it."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT, tiny_config
from test_scripts import assert_one_sentence, run_here
from transformers import SegformerImageProcessor

from aucseg_hf import AUCSegForSemanticSegmentation, load_benchmark, predict
from aucseg_hf.metrics import SegmentationMetrics

NAMES = ("sky", "road", "car", "sign")


def save_model(folder, seed=0, names=NAMES):
    torch.manual_seed(seed)
    config = tiny_config(id2label=dict(enumerate(names)), num_labels=len(names))
    model = AUCSegForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    model.save_pretrained(folder)
    SegformerImageProcessor(do_resize=False).save_pretrained(folder)
    return folder


def start(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/evaluate.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=600,
    )


def comparison(folder):
    return json.loads((folder / "evaluation.json").read_text())["comparison"]


def mean_ious(model_folder, benchmark, draws):
    """Mean IoU of a model on the drawn images, each data set measured from its label maps."""
    model = AUCSegForSemanticSegmentation.from_pretrained(model_folder)
    records = [benchmark["val"][i] for i in range(len(benchmark["val"]))]
    images = [record["image"] for record in records]
    labels = torch.stack([torch.from_numpy(np.array(record["label"])) for record in records])
    maps = np.stack(predict(model, SegformerImageProcessor(do_resize=False), images))
    result = []
    for drawn in draws:
        metrics = SegmentationMetrics(4)
        metrics.update(torch.from_numpy(maps[drawn]), labels[drawn])
        result.append(metrics.compute()["mean_iou"])
    return np.array(result)


@pytest.mark.slow
def test_evaluates_and_compares(pairs, tmp_path):
    first, second = (save_model(tmp_path / f"model{seed}", seed) for seed in (0, 1))
    out = tmp_path / "out"
    command = ["--model", first, "--dataset", pairs, "--output_dir", out, "--device", "cpu"]
    result = start(*command, "--compare", second, "--resamples", 60)
    assert result.returncode == 0, result.stderr
    for word in ("evaluating", "100%"):
        assert word in result.stderr
    for word in ("head", "tail", "overall", "pixel AUC", "boundary IoU", "baseline", "report.html"):
        assert word in result.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {
        "evaluation.json", "classes.csv", "comparison.csv", "report.html", "class_iou.png",
        "confusion.png", "pixel_auc.png", "worst_1.jpg", "worst_2.jpg", "best_1.jpg",
    }  # fmt: skip
    assert (out / "report.html").stat().st_size < 3e6

    rng = np.random.default_rng(0)
    benchmark = load_benchmark(pairs)
    draws = [np.arange(3), *rng.integers(3, size=(60, 3))]
    model, baseline = (mean_ious(folder, benchmark, draws) for folder in (first, second))
    overall = comparison(out)[0]
    assert (overall["model"], overall["baseline"]) == pytest.approx((model[0], baseline[0]))
    difference = (model - baseline)[1:]
    ends = np.percentile(difference, [2.5, 97.5])
    np.testing.assert_allclose([overall["low"], overall["high"]], ends, atol=1e-12)
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    assert overall["p_value"] == pytest.approx(min(1, 2 * (1 + tail) / 61))


def test_a_checkpoint_equals_itself(pairs, tmp_path, monkeypatch, capsys):
    model, out = save_model(tmp_path / "model"), tmp_path / "out"
    command = ["--model", model, "--compare", model, "--dataset", pairs, "--output_dir", out]
    result = run_here(monkeypatch, capsys, "evaluate", *command, "--resamples", "20")
    assert result.returncode == 0, result.stderr
    rows = comparison(out)
    assert [row["name"] for row in rows] == ["overall", "head", "middle", "tail", *NAMES]
    for row in rows:
        if row["model"] is not None:
            assert (row["difference"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)
    assert [row["name"] for row in rows if row["model"] is None] == ["middle"]


def test_other_views(pairs, tmp_path, monkeypatch, capsys):
    command = ["--model", save_model(tmp_path / "model"), "--dataset", pairs, "--resamples", "5"]
    confusion = {}
    for name, view in {
        "plain": [], "large window": ["--window", 900], "views": ["--scales", 1, 1.5, "--flip"],
    }.items():  # fmt: skip
        out = tmp_path / name
        result = run_here(monkeypatch, capsys, "evaluate", *command, *view, "--output_dir", out)
        assert result.returncode == 0, result.stderr
        confusion[name] = json.loads((out / "evaluation.json").read_text())["confusion"]
        assert (out / "pixel_auc.png").is_file() == (name == "plain")
    assert confusion["plain"] == confusion["large window"]
    assert confusion["plain"] != confusion["views"]


def spoil(pairs, tmp_path, fault):
    """Break the input; returns the arguments that show it and words of the sentence about it."""
    label, image = pairs / "val/labels/001.png", pairs / "val/images/001.jpg"
    if fault == "other names":
        model = save_model(tmp_path / "other", names=("sky", "road", "van", "sign"))
        return ["--model", model], ["2: 'van' and 'car'"]
    if fault == "other number in the second model":
        model = save_model(tmp_path / "other", names=NAMES[:3])
        return ["--compare", model], ["3 classes", "sign"]
    if fault == "broken image":
        image.write_bytes(image.read_bytes()[:300])
        return [], ["001.jpg"]
    if fault == "id outside":
        PIL.Image.fromarray(np.full((40, 48), 9, np.uint8)).save(label)
        return [], ["001.png", "9"]
    if fault == "no images":
        for path in (*(pairs / "val/images").iterdir(), *(pairs / "val/labels").iterdir()):
            path.unlink()
        return [], ["no images"]
    if fault == "all void":
        for path in (pairs / "val/labels").iterdir():
            PIL.Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
        return [], ["labelled pixels", "3 images"]
    if fault == "folder in the way":
        (tmp_path / "file").write_text("")
        return ["--output_dir", tmp_path / "file" / "out"], [str(tmp_path / "file")]
    return {
        "no device": (["--device", "cuda:77"], ["cuda:77"]),
        "no such device": (["--device", "abacus"], ["abacus"]),
        "no split": (["--split", "test"], ["'test'", "train", "val"]),
        "no model": (["--model", tmp_path / "nowhere"], ["nowhere"]),
        "no data": (["--dataset", tmp_path / "nowhere"], ["nowhere"]),
        "window": (["--window", -3], ["-3"]),
        "scale": (["--scales", 0], ["0"]),
        "resamples": (["--resamples", 0], ["resamples", "0"]),
    }[fault]


FAULTS = [
    "other names", "other number in the second model", "broken image", "id outside", "no images",
    "all void", "folder in the way", "no device", "no such device", "no split", "no model",
    "no data", "window", "scale", "resamples",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence_and_leaves_nothing(pairs, tmp_path, monkeypatch, capsys, fault):
    out = tmp_path / "out"
    base = ["--model", save_model(tmp_path / "model"), "--dataset", pairs, "--output_dir", out]
    arguments, words = spoil(pairs, tmp_path, fault)
    result = run_here(monkeypatch, capsys, "evaluate", *base, *arguments)
    assert_one_sentence(result, *words)
    assert not out.exists()
