import numpy as np
import pytest

from aucseg_hf import ClassStatistics
from aucseg_hf.data.advice import advise_bank
from aucseg_hf.data.groups import split_by_share


def made_up(num_tail, images=50):
    """One head class and a tail, each class of which is in so many of 100 images."""
    pixels = np.array([10**6] + [100] * num_tail)
    counts = np.array([100] + [images] * num_tail)
    return ClassStatistics(pixels, counts, 100, split_by_share(pixels))


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
