"""Every command and snippet of docs/inference.md is run; and what the page says of the scripts."""

import importlib.util
import os
import shlex
import sys

import numpy as np
import PIL.Image
import pytest
from conftest import ROOT
from test_readme import blocks, save_scenes_model
from test_scripts import assert_one_sentence, predict, run_here, save_tiny_model, start

from aucseg_hf.colors import color_map

PAGE = (ROOT / "docs/inference.md").read_text(encoding="utf-8")


def save_photo(path, size=(100, 80), seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(noise).resize(size).save(path)
    return path


def read(path):
    return np.asarray(PIL.Image.open(path))


@pytest.mark.slow
def test_snippets_and_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_scenes_model("outputs/scenes")
    save_photo(tmp_path / "photo.jpg")
    save_photo(tmp_path / "photos/sub/a.jpg")
    save_photo(tmp_path / "more/b.jpg")
    has_onnx = all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "onnxscript")))

    session = {}
    snippets = blocks("python", PAGE)
    for snippet in snippets[:2]:
        exec(compile(snippet, "docs/inference.md", "exec"), session)
    assert session["label_maps"][0].shape == session["careful"][0].shape == (80, 100)
    assert "of the pixels are sure" in capsys.readouterr().out

    commands = [shlex.split(line) for line in "\n".join(blocks("bash", PAGE)).splitlines()]
    assert [words[1] for words in commands] == ["scripts/predict.py", *["scripts/export.py"] * 2]
    for words in commands[:2]:
        result = start(sys.executable, ROOT / words[1], *words[2:], cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    if has_onnx:
        # A process of its own would spend most of its time importing the tracer once more.
        assert run_here(monkeypatch, capsys, "export", *commands[2][2:]).returncode == 0
    for name in ("sub/a_labels", "sub/a_overlay", "sub/a_confidence", "b_labels", "legend"):
        PIL.Image.open(tmp_path / f"predictions/{name}.png").verify()
    for snippet in snippets[2:] if has_onnx else snippets[2:3]:
        exec(compile(snippet, "docs/inference.md", "exec"), session)
        assert session["class_names"]["0"] == session["model"].config.id2label[0]
        assert session["logits"].shape == (1, len(session["class_names"]), 24, 32)


def test_formats_hold_the_same_ids(tmp_path, monkeypatch, capsys):
    model = save_tiny_model(tmp_path / "tiny")
    photo = save_photo(tmp_path / "photo.png")
    for name in ("raw", "palette", "color"):
        arguments = [photo, "--model", model, "--output_dir", tmp_path / name, "--format", name]
        result = run_here(monkeypatch, capsys, "predict", *arguments, "--confidence", "--flip")
        assert result.returncode == 0, result.stderr
    ids = read(tmp_path / "raw/photo_labels.png")
    assert len(np.unique(ids)) > 1
    colors = color_map(4)
    with PIL.Image.open(tmp_path / "palette/photo_labels.png") as palette:
        np.testing.assert_array_equal(np.asarray(palette), ids)
        np.testing.assert_array_equal(np.asarray(palette.convert("RGB")), colors[ids])
    np.testing.assert_array_equal(read(tmp_path / "color/photo_labels.png"), colors[ids])
    confidence = read(tmp_path / "raw/photo_confidence.png")
    assert confidence.shape == ids.shape
    assert confidence.min() >= 64  # no class of four can win with less than a quarter
    assert not list(tmp_path.glob("**/.*"))


def test_many_classes_are_written_with_16_bits(tmp_path, monkeypatch, capsys):
    model = save_tiny_model(tmp_path / "tiny", num_labels=300)
    arguments = [save_photo(tmp_path / "photo.png"), "--model", model, "--output_dir", tmp_path]
    assert run_here(monkeypatch, capsys, "predict", *arguments).returncode == 0
    ids = read(tmp_path / "photo_labels.png")
    assert ids.dtype == np.uint16
    assert ids.max() > 255
    result = run_here(monkeypatch, capsys, "predict", *arguments, "--format", "palette")
    assert_one_sentence(result, "256 colours", "300 classes")


def test_bad_input(tmp_path, monkeypatch, capsys):
    model = save_tiny_model(tmp_path / "tiny")
    photo = save_photo(tmp_path / "photo.png")
    video = tmp_path / "clip.mp4"
    video.touch()
    monkeypatch.setitem(sys.modules, "av", None)
    cases = [
        (["--device", "cuda:99"], "cuda:99"),
        (["--device", "toaster"], "toaster"),
        (["--output_dir", photo], "cannot write to the folder"),
        (["--stride", "8"], "window with the stride"),
        (["--scales", "0"], "positive scales"),
        (["--batch_size", "0"], "positive batch_size"),
        ([video], "pip install av"),
    ]
    for extra, words in cases:
        # The last --output_dir counts.
        arguments = ["--model", model, "--output_dir", tmp_path / "out", photo, *extra]
        assert_one_sentence(run_here(monkeypatch, capsys, "predict", *arguments), words)
        assert not list(tmp_path.glob("out/*"))
    result = run_here(monkeypatch, capsys, "export", "--model", model, "--output", photo / "m.onnx")
    assert_one_sentence(result, "cannot write to the folder")


@pytest.mark.slow
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission(tmp_path):
    model = save_tiny_model(tmp_path / "tiny")
    photo = save_photo(tmp_path / "photo.png")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_one_sentence(predict(photo, "--model", model, "--output_dir", tmp_path / "locked"))


@pytest.mark.slow
def test_a_broken_image_in_a_process_of_its_own(tmp_path):
    model = save_tiny_model(tmp_path / "tiny")
    photo = save_photo(tmp_path / "photos/b.png")
    (tmp_path / "photos/c.png").write_bytes(photo.read_bytes()[:200])
    out = tmp_path / "out"
    arguments = [tmp_path / "photos", "--model", model, "--output_dir", out, "--batch_size", 1]
    assert_one_sentence(predict(*arguments), "c.png")
    assert sorted(path.name for path in out.iterdir()) == ["b_labels.png", "b_overlay.png"]


@pytest.mark.slow
def test_benchmark_measures_one_case():
    script = ROOT / "scripts/benchmark_prediction.py"
    result = start(sys.executable, script, "--case", "tiny", 1200, 1000, 300, 256)
    assert result.returncode == 0, result.stderr
    before, peak = (float(cell) for cell in result.stdout.splitlines()[-1].split("|")[5:7])
    # The scores of all classes alone are 1.3 GB.
    assert before < peak < before + 0.6
