"""The scripts as a user starts them: real processes, real files."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from conftest import ROOT, tiny_config

from aucseg_hf import AUCSegForSemanticSegmentation
from aucseg_hf.backbones import load_image_processor
from aucseg_hf.cli import run

QUICK = [
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "2",
    "--use_cpu",
    "--save_strategy",
    "no",
]
QUICK += ["--eval_strategy", "no", "--load_best_model_at_end", "False"]


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_here(monkeypatch, capsys, name, *arguments):
    """A script in this process, which saves the time of starting one."""
    monkeypatch.setattr(sys, "argv", [name, *(str(argument) for argument in arguments)])
    status = run(load_script(name).main)
    return subprocess.CompletedProcess(arguments, status, stderr=capsys.readouterr().err)


def start(*command, cwd=None):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
    )


def train(*arguments, cwd=None):
    return start(sys.executable, ROOT / "scripts/train.py", *arguments, cwd=cwd)


def predict(*arguments, cwd=None):
    return start(sys.executable, ROOT / "scripts/predict.py", *arguments, cwd=cwd)


def save_tiny_model(folder, num_labels=4, tail_classes=(3,)):
    config = tiny_config(num_labels, aucseg={"tail_classes": list(tail_classes)})
    model = AUCSegForSemanticSegmentation(config)
    model.save_pretrained(folder)
    load_image_processor("b0").save_pretrained(folder)
    return folder


def assert_one_sentence(result, *words):
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, result.stderr
    for word in words:
        assert word in error[0]


@pytest.mark.slow
def test_train_writes_checkpoint_report_and_plots(pairs, tmp_path):
    model = save_tiny_model(tmp_path / "tiny")
    out = tmp_path / "out"
    result = train("--dataset", pairs, "--model", model, "--output_dir", out, *QUICK)
    assert result.returncode == 0, result.stderr
    for word in ("sky", "sign", "IoU", "overall", "head", "middle", "tail", "pixel AUC"):
        assert word in result.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["steps"] == 2
    assert report["groups"]["tail"] == [3]
    assert len(report["metrics"]["per_category_iou"]) == 4
    for name in ("class_iou.png", "curves.png", "samples.png"):
        PIL.Image.open(out / name).verify()
    assert not list(out.glob(".*"))

    image = pairs / "val/images/001.jpg"
    result = predict(image, "--model", out, "--output_dir", tmp_path / "predictions")
    assert result.returncode == 0, result.stderr
    labels = np.asarray(PIL.Image.open(tmp_path / "predictions/001_labels.png"))
    assert labels.shape == (40, 48)
    assert labels.max() < 4
    assert PIL.Image.open(tmp_path / "predictions/001_overlay.png").size == (48, 40)


def corrupt(pairs, fault):
    """Breaks one thing; returns extra arguments and words the sentence has to hold."""
    label, image = pairs / "train/labels/001.png", pairs / "train/images/001.jpg"
    if fault == "no such folder":
        return ["--dataset", pairs / "nowhere"], ["nowhere"]
    if fault == "image without label":
        label.unlink()
        return [], [str(image)]
    if fault == "label without image":
        image.unlink()
        return [], [str(label)]
    if fault == "sizes that differ":
        PIL.Image.new("L", (10, 10)).save(label)
        return [], [str(label), "48x40", "10x10"]
    if fault == "id outside the range":
        PIL.Image.new("L", (48, 40), 77).save(label)
        return [], [str(label), "77"]
    if fault == "id outside the range in val":
        PIL.Image.new("L", (48, 40), 78).save(pairs / "val/labels/001.png")
        return [], ["78"]
    if fault == "truncated image":
        image.write_bytes(image.read_bytes()[:600])
        return [], [str(image)]
    if fault == "unreadable image":
        image.write_bytes(b"no image")
        return [], [str(image)]
    if fault == "RGB label":
        PIL.Image.new("RGB", (48, 40)).save(label)
        return [], [str(label), "RGB"]
    if fault == "empty split":
        for path in pairs.glob("val/*/*"):
            path.unlink()
        return [], ["empty split"]
    if fault == "no val":
        (pairs / "val").rename(pairs / "elsewhere")
        return [], ["val"]
    return {
        "other classes": (["--model", save_tiny_model(pairs.parent / "five", 5)], ["5", "4"]),
        "tail name": (["--tail_classes", "bicycle"], ["bicycle"]),
        "tail id": (["--tail_classes", "9"], ["9"]),
        "negative weight": (["--auc_weight", "-1"], ["auc_weight", "-1"]),
        "negative ce": (["--ce_weight", "-0.5"], ["ce_weight", "-0.5"]),
        "surrogate": (["--surrogate", "cubic"], ["cubic"]),
        "no model": (["--model", "b9"], ["b9"]),
        "crop": (["--crop_size", "0"], ["crop_size"]),
        "strategies": (["--save_strategy", "steps", "--load_best_model_at_end"], ["strategy"]),
    }[fault]


FAULTS = [
    "no such folder", "image without label", "label without image", "sizes that differ",
    "id outside the range", "id outside the range in val", "truncated image", "unreadable image",
    "RGB label", "empty split", "no val", "other classes", "tail name", "tail id",
    "negative weight", "negative ce", "surrogate", "no model", "crop", "strategies",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence_and_leaves_nothing(pairs, tmp_path, monkeypatch, capsys, fault):
    arguments, words = corrupt(pairs, fault)
    out = tmp_path / "out"
    base = ["--dataset", pairs, "--model", save_tiny_model(tmp_path / "tiny")]
    command = [*base, "--output_dir", out, *QUICK, *arguments]
    assert_one_sentence(run_here(monkeypatch, capsys, "train", *command), *words)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no such folder", "truncated image", "negative weight"])
def test_bad_input_in_a_process_of_its_own(pairs, tmp_path, fault):
    arguments, words = corrupt(pairs, fault)
    base = ["--dataset", pairs, "--model", save_tiny_model(tmp_path / "tiny")]
    assert_one_sentence(train(*base, *QUICK, *arguments, cwd=tmp_path), *words)
    assert not (tmp_path / "outputs").exists()


def test_recipes(pairs, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("datset: x\n")
    result = run_here(monkeypatch, capsys, "train", recipe)
    assert_one_sentence(result, "datset", "dataset")
    result = run_here(monkeypatch, capsys, "train", tmp_path / "none.yaml")
    assert_one_sentence(result, "none.yaml")
    result = run_here(monkeypatch, capsys, "train", "--lerning_rate", "1e-3")
    assert_one_sentence(result, "--lerning_rate", "'learning_rate'")
    recipe.write_text(
        f"dataset: {pairs}\nmodel: {save_tiny_model(tmp_path / 'tiny')}\nmax_steps: 7\n"
    )
    out = tmp_path / "out"
    result = run_here(monkeypatch, capsys, "train", recipe, "--output_dir", out, *QUICK)
    assert result.returncode == 0
    assert json.loads((out / "report.json").read_text())["steps"] == 2


def test_predict_refuses_bad_input(pairs, tmp_path, monkeypatch, capsys):
    model = save_tiny_model(tmp_path / "tiny")
    out = tmp_path / "out"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    cases = [
        ([tmp_path / "none.jpg", "--model", model], "none.jpg"),
        ([broken, "--model", model], "broken.png"),
        ([pairs / "val/images/000.jpg", "--model", tmp_path / "nowhere"], "nowhere"),
        ([tmp_path / "tiny", "--model", model], "no images"),
        ([pairs / "val/images/000.jpg", "--model", model, "--window", "-3"], "-3"),
    ]
    for arguments, word in cases:
        command = [*arguments, "--output_dir", out]
        assert_one_sentence(run_here(monkeypatch, capsys, "predict", *command), word)
        assert not list(out.glob("*"))


def part_of(folder, target, counts):
    """A folder of links to some of its pairs, spread over each split."""
    for split, count in counts.items():
        images = sorted((folder / split / "images").iterdir())
        for image in images[:: len(images) // count][:count]:
            for file in (image, folder / split / "labels" / f"{image.stem}.png"):
                link = target / split / file.parent.name / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())
    for file in folder.glob("*.json"):
        (target / file.name).symlink_to(file.resolve())
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "steps", "learning_rate"), [("b0", 100, 3e-4), ("mobilenet", 40, 3e-4)]
)
def test_camvid_loss_falls_and_the_pipeline_labels_an_image(
    request, camvid, tmp_path, model, steps, learning_rate
):
    name = str(request.getfixturevalue("mobilenet")) if model == "mobilenet" else model
    tail = ["pole", "signsymbol", "fence", "pedestrian", "bicyclist"]
    out = tmp_path / "out"
    data = part_of(camvid, tmp_path / "camvid", {"train": 120, "val": 16})
    arguments = ["--dataset", data, "--model", name, "--output_dir", out, "--use_cpu"]
    arguments += ["--max_steps", steps, "--per_device_train_batch_size", 4, "--logging_steps", 5]
    arguments += ["--crop_size", 128, "--scale", 0.4, 0.6, "--learning_rate", learning_rate]
    arguments += ["--eval_strategy", "no", "--save_strategy", "no"]
    arguments += ["--load_best_model_at_end", "False", "--tail_classes", *tail]
    result = start(
        sys.executable, "-m", "accelerate.commands.launch", ROOT / "scripts/train.py", *arguments
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((out / "report.json").read_text())
    losses = [line["loss"] for line in report["history"] if "loss" in line]
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
    assert report["groups"]["tail"] == [2, 6, 7, 9, 10]
    assert report["metrics"]["mean_iou"] > 0.1
    image = sorted((camvid / "val/images").glob("*.jpg"))[0]
    script = f"""
import sys
sys.modules["aucseg_hf"] = None  # importing it would raise
from transformers import pipeline
segments = pipeline("image-segmentation", {str(out)!r})({str(image)!r})
print(sorted(segment["label"] for segment in segments), segments[0]["mask"].size)
"""
    result = start(sys.executable, "-c", script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "road" in result.stdout
    assert "(480, 360)" in result.stdout


@pytest.mark.slow
def test_two_processes_by_accelerate_launch_and_a_configuration(pairs, tmp_path):
    """`accelerate launch --cpu --num_processes 2` would silently start one."""
    recipe = ROOT / "scripts/recipes/accelerate/two_cpu_processes.yaml"
    out = tmp_path / "out"
    result = start(
        *[sys.executable, "-m", "accelerate.commands.launch", "--config_file", recipe],
        *[ROOT / "scripts/train.py", "--dataset", pairs, "--output_dir", out],
        *["--model", save_tiny_model(tmp_path / "tiny"), *QUICK, "--save_strategy", "steps"],
    )
    assert result.returncode == 0, result.stderr
    environment = json.loads((out / "environment.json").read_text())
    assert environment["num_processes"] == 2
    assert len(list(out.glob("checkpoint-2/memory_bank_*.pt"))) == 2
    report = json.loads((out / "report.json").read_text())
    assert report["metrics"]["overall_accuracy"] > 0


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts/recipes/accelerate").glob("*.yaml")), ids=str
)
def test_accelerate_reads_its_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    expected = {"fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}.get(path.stem, "MULTI_GPU")
    assert config.distributed_type == expected


def test_help_shows_our_own_options_first(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        run(load_script("train").main)
    shown = capsys.readouterr().out
    groups = ["data and model:", "loss:", "memory bank:", "optimisation:", "interruptions:"]
    positions = [shown.index(f"\n{title}\n") for title in [*groups, "options:"]]
    assert positions == sorted(positions)
    loss = shown[positions[1] : positions[2]]
    assert "--auc_weight" in loss
    assert "--surrogate" in loss
    assert shown.count("--auc_weight") == 1
