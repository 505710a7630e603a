import numpy as np
import pytest

from aucseg_hf import ClassStatistics, load_benchmark
from aucseg_hf.data.advice import advise_bank
from aucseg_hf.data.groups import split_by_share
from aucseg_hf.data.statistics_report import format_statistics, plot_statistics


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
