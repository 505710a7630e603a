"""Every command and snippet of the README is run: by .ci/run, or here on small input."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT, tiny_config
from test_trainer import RandomScenes
from transformers import SegformerImageProcessor

from aucseg_hf import AUCSegForSemanticSegmentation, load_benchmark

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return [m.strip() for m in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]


def test_ci_runs_the_two_commands_as_written():
    ci = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    for command in blocks("bash")[:2]:
        assert command in ci
    assert sum(line.startswith("pip install") for line in ci) == 2


def save_scenes_model(folder):
    info = load_benchmark("scenes").info
    config = tiny_config(info.num_labels, id2label=info.id2label)
    AUCSegForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(do_resize=False).save_pretrained(folder)
    return info.id2label


@pytest.mark.slow
def test_python_snippets_run_in_one_session(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    id2label = save_scenes_model("outputs/scenes")
    PIL.Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save("photo.jpg")
    snippets = [re.sub(r"max_steps=\d+", "max_steps=2, use_cpu=True", s) for s in blocks("python")]
    assert len(snippets) == 5
    # The snippet that makes the data sets stands after the one that uses them.
    order = sorted(range(5), key=lambda i: "load_benchmark" not in snippets[i])
    session = {"checkpoint": "outputs/scenes", "id2label": id2label}
    for i in order:
        exec(compile(snippets[i], f"README snippet {i}", "exec"), session)
    assert "traffic sign" in capsys.readouterr().out
    assert session["trainer"].model.config.aucseg["tail_classes"] == [
        list(id2label.values()).index(name) for name in ("traffic sign", "bicycle")
    ]
    assert len(session["bank"]) > 0
    assert session["loss"].item() > 0
    assert session["segments"][0]["mask"].size == (50, 40)


@pytest.mark.slow
def test_other_commands_run(pairs, tmp_path):
    tiny = tmp_path / "tiny"
    AUCSegForSemanticSegmentation(tiny_config()).save_pretrained(tiny)
    train, predict, evaluate = blocks("bash")[2:]
    replacements = {
        "accelerate launch": f"{sys.executable} -m accelerate.commands.launch",
        "python scripts": f"{sys.executable} scripts",
        "path/to/data": str(pairs),
        "--model b0": f"--model {tiny}",
        "--max_steps 1000": f"--max_steps 2 --use_cpu --output_dir {tmp_path / 'run'}",
        "path/to/image.jpg": str(pairs / "val/images/000.jpg"),
        "outputs/run": str(tmp_path / "run"),
        "--output_dir predictions": f"--output_dir {tmp_path / 'predictions'}",
        "--output_dir evaluation": f"--output_dir {tmp_path / 'evaluation'}",
    }
    for command in (train, predict, evaluate):
        for old, new in replacements.items():
            command = command.replace(old, new)
        result = subprocess.run(
            shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "predictions/000_overlay.png").is_file()
    assert (tmp_path / "evaluation/report.html").is_file()


def test_snippet_of_the_training_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python", (ROOT / "docs/training.md").read_text(encoding="utf-8"))
    for old, new in {"max_steps=2000": "max_steps=2, use_cpu=True", "steps=500": "steps=1"}.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    names = {0: "road", 1: "car", 2: "rider", 3: "pole"}
    model = AUCSegForSemanticSegmentation(tiny_config(id2label=names))
    session = {
        "model": model,
        "train_dataset": RandomScenes(4),
        "eval_dataset": RandomScenes(2),
    }
    exec(compile(snippet, "docs/training.md", "exec"), session)
    state = session["trainer"].state
    assert state.best_metric == max(
        line["eval_mean_iou_tail"] for line in state.log_history if "eval_loss" in line
    )


def test_every_test_of_the_table_exists():
    table = README[README.index("## What stock Trainer") : README.index("## What it does")]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    stock = (ROOT / "tests/test_stock_trainer.py").read_text(encoding="utf-8")
    assert len(rows) == 10
    for row in rows:
        named = re.findall(r"`(test_[a-z_]+(?:\.py)?)`", row)
        assert named, row
        for name in named:
            assert (ROOT / "tests" / name).is_file() or f"def {name}(" in stock, name


def test_snippet_of_the_loss_page():
    (snippet,) = blocks("python", (ROOT / "docs/loss.md").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    session = {"logits": logits, "labels": torch.randint(0, 3, (2, 32, 32))}
    exec(compile(snippet, "docs/loss.md", "exec"), session)
    output = session["output"]
    assert output.loss.item() == pytest.approx(output.ce.item() + 0.5 * output.auc.item())
    assert logits.grad.abs().sum() > 0


def test_snippet_of_the_memory_bank_page():
    (snippet,) = blocks("python", (ROOT / "docs/memory_bank.md").read_text(encoding="utf-8"))
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[0, 4:8, 4:8] = 12
    session = {"pixel_values": torch.rand(2, 3, 32, 32), "labels": labels}
    exec(compile(snippet, "docs/memory_bank.md", "exec"), session)
    assert (session["labels"] == 12).sum() == 32


def test_snippet_of_the_evaluation_page(capsys):
    (snippet,) = blocks("python", (ROOT / "docs/evaluation.md").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    batches = [
        (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 32, 32)))
        for _ in range(4)
    ]
    exec(compile(snippet, "docs/evaluation.md", "exec"), {"batches": batches})
    low, mean, high, p_value = (float(word) for word in capsys.readouterr().out.split())
    assert low <= mean <= high
    assert 0 < p_value <= 1


@pytest.mark.slow
def test_loss_benchmark_measures_one_case():
    def measure(case):
        script = ROOT / "scripts/benchmark_loss.py"
        command = [sys.executable, script, "--repeats", "1", "--case", json.dumps(case)]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    shape = [2, 19, 128, 19]
    times = measure({"shape": shape})
    assert len(times) == 4
    baseline = measure({"shape": shape, "method": "interpolate + CE"})["peak_mib"]
    # Upsampled logits and their log-softmax alone: 2 x 19 x 128 x 128 x 4 bytes, twice.
    assert baseline > 4.75


@pytest.mark.slow
def test_bank_benchmark_prints_every_setting():
    script = ROOT / "scripts/benchmark_bank.py"
    quick = ["--size", "64", "--batch_size", "2", "--calls", "1", "--passes", "1"]
    result = subprocess.run(
        [sys.executable, script, *quick], check=True, capture_output=True, text=True
    )
    rows = [line.split("|") for line in result.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 4
    # Eight-bit pixels and the mask: 3 + 1 bytes, whatever the box.
    assert all(float(row[4]) == 4.0 for row in rows)
