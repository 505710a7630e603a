import contextlib
import io
import json

import PIL.Image
from test_scripts import assert_one_sentence, run_here

from aucseg_hf import ClassStatistics


def run(monkeypatch, capsys, *arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = run_here(monkeypatch, capsys, "class_statistics", *arguments)
    return result, printed.getvalue()


def test_script_counts_once_and_groups_as_told(pairs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    result, text = run(monkeypatch, capsys, pairs, "--output_dir", out)
    assert result.returncode == 0, result.stderr
    assert "tail 1" in text
    PIL.Image.open(out / "classes.png").verify()
    content = json.loads((out / "statistics.json").read_text())
    assert content["groups"]["tail"] == [3]
    assert content["bank"]["tail_classes"] == [3]
    assert ClassStatistics.load(out / "statistics.json").image_counts.tolist() == [6, 6, 6, 2]

    def refuse(*_, **__):
        raise AssertionError("counted again")

    with monkeypatch.context() as patch:
        patch.setattr(ClassStatistics, "from_dataset", refuse)
        options = ["--head_classes", "sky", "--tail_classes", "2", "sign"]
        _, text = run(patch, capsys, pairs, "--output_dir", out, *options)
        assert "head 1, middle 1, tail 2" in text
        _, text = run(patch, capsys, pairs, "--output_dir", out, "--num_head", 1, "--num_tail", 2)
        assert "head 1, middle 1, tail 2" in text
    PIL.Image.new("L", (48, 40), 3).save(pairs / "train/labels/001.png")
    run(monkeypatch, capsys, pairs, "--output_dir", out)
    assert ClassStatistics.load(out / "statistics.json").image_counts.tolist() == [5, 5, 5, 3]


def test_script_says_what_is_wrong_in_one_sentence(pairs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    cases = [
        ([pairs / "nowhere"], "nowhere"),
        ([pairs, "--split", "test"], "test"),
        ([pairs, "--tail_classes", "bicycle"], "bicycle"),
        ([pairs, "--num_head", "2"], "--num_tail"),
        ([pairs, "--tail_share", "0.5"], "tail share"),
        ([pairs, "--delta", "2"], "delta"),
    ]
    for arguments, word in cases:
        result, _ = run(monkeypatch, capsys, *arguments, "--output_dir", out)
        assert_one_sentence(result, word)
        assert not out.exists()
    PIL.Image.new("L", (48, 40), 9).save(pairs / "train/labels/001.png")
    result, _ = run(monkeypatch, capsys, pairs, "--output_dir", out)
    assert_one_sentence(result, "001.png", "9")
