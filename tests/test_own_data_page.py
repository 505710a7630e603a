"""Every command and snippet of docs/your_own_data.md and docs/class_statistics.md, in order."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from conftest import ROOT
from test_readme import blocks
from test_scripts import run_here, save_tiny_model


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def execute(monkeypatch, capsys, tmp_path):
    """Runs a command of the page in this process, with a tiny model for two steps."""
    model = save_tiny_model(tmp_path / "tiny", num_labels=3, tail_classes=[2])

    def run(command):
        launcher, script, *arguments = re.fullmatch(
            r"(python|accelerate launch) scripts/(\w+)\.py (.*)", command
        ).groups()
        arguments = shlex.split(
            arguments[0]
            .replace("--model b0", f"--model {model}")
            .replace("--max_steps 1000", "--max_steps 2 --use_cpu --per_device_train_batch_size 4")
        )
        assert launcher == ("accelerate launch" if script == "train" else "python")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            result = run_here(monkeypatch, capsys, script, *arguments)
        assert result.returncode == 0, result.stderr
        return printed.getvalue()

    return run


@pytest.mark.slow
def test_from_a_folder_to_predictions(tmp_path, monkeypatch, execute):
    monkeypatch.chdir(tmp_path)
    text = page("your_own_data.md")
    make_folder, make_shards, use_stream = blocks("python", text)
    statistics, train, predict, stream = blocks("bash", text)

    exec(compile(make_folder, "folder", "exec"), {})
    printed = execute(statistics)
    # 60 pixels in 6 of 24 images of 96 x 128.
    assert re.search(r"2  rider  tail      0\.1221        6     25\.00", printed)
    assert "rider" in execute(train)
    execute(predict)
    labels = np.asarray(PIL.Image.open("predictions/0003_labels.png"))
    assert labels.shape == (96, 128)
    assert labels.max() < 3

    exec(compile(make_shards, "shards", "exec"), {})
    # The checkpoint of the folder's run may stay: a run that does not resume sets it aside.
    assert "24 images, 3 classes" in execute(stream)
    session = {}
    exec(compile(use_stream, "stream", "exec"), session)
    assert session["statistics"].image_counts.tolist() == [24, 24, 6]
    names = [example["name"] for example in session["train_dataset"]]
    assert sorted(names) == [f"{i:04}.jpg" for i in range(24)]


def test_snippets_of_the_statistics_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = {}
    for snippet in blocks("python", page("class_statistics.md")):
        exec(compile(snippet, "statistics", "exec"), session)
    assert session["statistics"].groups["tail"] == session["loaded"].groups["tail"]
    assert session["advice"].memory_size == 5
    assert len(session["trained_on"]) > 400


@pytest.mark.slow
def test_data_benchmark_prints_its_lines():
    script = ROOT / "scripts/benchmark_data.py"
    quick = ["--size", "96", "128", "--crop_size", "64", "--images", "4", "--steps", "1"]
    result = subprocess.run(
        [sys.executable, script, *quick, "--labels", "8", "--index", "1000", "--batch_size", "2"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "one worker",
        "SegFormer-B0, batch 2, 1 workers",
        "class counting",
        "index of 1000 files",
    ]
    share = float(re.search(r"([\d.]+)% of it waiting", lines[1])[1])
    assert 0 <= share <= 100
