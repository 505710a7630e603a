import contextlib
import io
import json
import os

import numpy as np
import PIL.Image
import pytest
from test_scripts import assert_one_sentence, run_here

from aucseg_hf import ClassStatistics, load_benchmark
from aucseg_hf.data.advice import advise_bank
from aucseg_hf.data.fingerprint import fingerprint
from aucseg_hf.data.groups import split_by_share
from aucseg_hf.data.statistics_report import format_statistics, plot_statistics


def made_up(num_tail, images=50):
    """One head class and a tail, each class of which is in so many of 100 images."""
    pixels = np.array([10**6] + [100] * num_tail)
    counts = np.array([100] + [images] * num_tail)
    return ClassStatistics(pixels, counts, 100, split_by_share(pixels))


# Advice


@pytest.mark.parametrize(
    ("num_tail", "ratio"), [(7, 1.0), (8, 0.85), (123, 0.05), (124, 0.05), (200, 0.05)]
)
def test_sample_ratio_follows_the_published_settings(num_tail, ratio):
    names = [str(c) for c in range(num_tail + 1)]
    advice = advise_bank(made_up(num_tail), names)
    assert advice.sample_ratio == ratio
    assert advice.tail_classes == list(range(1, num_tail + 1))
    assert advice.memory_size == 5


def test_memory_size_and_absent_classes():
    statistics = made_up(4)
    statistics.image_counts[[2, 3]] = 0, 3
    advice = advise_bank(statistics, ["a", "b", "c", "d", "e"])
    assert advice.tail_classes == [1, 3, 4]
    assert advice.memory_size == 3
    assert "in no image: c" in advice.reasons[0]
    assert "d is in 3 images" in advice.reasons[2]
    nothing = advise_bank(made_up(0), ["a"])
    assert nothing.tail_classes == []
    assert "without the bank" in nothing.reasons[0]


# Table and picture


def test_table_holds_the_numbers(pairs):
    records = load_benchmark(pairs, split="train")
    statistics = ClassStatistics.from_dataset(records, 4)
    names = ["sky", "road", "car", "stop sign"]
    text = format_statistics(statistics, names, advise_bank(statistics, names))
    lines = text.splitlines()
    assert lines[5].split() == ["3", "stop", "sign", "tail", "0.2849", "2", "33.33"]
    assert "6 images; head 3, middle 0, tail 1" in text
    # One image lacks the sign with probability 4 / 6, four with (4 / 6) ** 4.
    assert ["1", "0.67", "66.7%"] in [line.split() for line in lines]
    assert ["4", "0.20", "19.8%"] in [line.split() for line in lines]
    # log(.01 / 4) / log(4 / 6) = 14.8
    assert "every class is in a batch of 15 with probability 0.99" in text
    assert '--tail_classes "stop sign" --sample_ratio 1 --memory_size 2' in text


def test_bars_are_the_shares_in_order_of_the_groups():
    pixels = np.array([10, 5000, 90000, 0, 4990])
    statistics = ClassStatistics(pixels, np.array([1, 5, 10, 0, 8]), 10, split_by_share(pixels))
    figure = plot_statistics(statistics, ["a", "b", "c", "d", "e"])
    upper, lower = figure.axes
    assert [label.get_text() for label in lower.get_xticklabels()] == ["c", "b", "e", "a", "d"]
    heights = [bar.get_height() for bar in upper.patches]
    assert heights == pytest.approx([90, 5, 4.99, 0.01, 0])
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([100, 50, 80, 10, 0])
    assert upper.get_ylim()[0] == pytest.approx(0.001)


# Script


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


def test_fingerprint_changes_with_files_and_rule(pairs):
    def now(split="train"):
        benchmark = load_benchmark(pairs)
        return fingerprint(benchmark[split], benchmark.info.label_rule)

    first = now()
    assert now() == first
    assert now("val") != first
    path = pairs / "train/labels/002.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert now() != first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert now() == first
    (pairs / "id2label.json").write_text('["a", "b", "c", "d", "e"]')
    assert now() != first
    scenes = [load_benchmark("scenes", size=32, num_train=4, seed=seed) for seed in (0, 0, 1)]
    keys = [fingerprint(s["train"], s.info.label_rule) for s in scenes]
    assert keys[0] == keys[1] != keys[2]
