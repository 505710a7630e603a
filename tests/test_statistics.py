import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aucseg_hf import ClassStatistics, InputError, load_benchmark
from aucseg_hf.data.groups import split_by_share

# Table of the CamVid copy's README: train pixels and images of each class.
CAMVID_PIXELS = [
    10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967
]  # fmt: skip
CAMVID_IMAGES = [366, 365, 366, 367, 349, 319, 351, 173, 360, 317, 201]


def test_camvid_equals_the_published_counts(camvid):
    statistics = ClassStatistics.from_dataset(load_benchmark(camvid, split="train"), 11)
    assert statistics.pixel_counts.tolist() == CAMVID_PIXELS
    assert statistics.image_counts.tolist() == CAMVID_IMAGES
    assert statistics.num_images == 367
    assert statistics.tail_classes == [10]
    # Fence is in the fewest images, 173 of 367: log(.01 / 11) / log(1 - 173 / 367) = 10.98.
    assert statistics.batch_size_for(0.01) == 11


def test_counts_of_a_hand_made_folder(pairs):
    statistics = ClassStatistics.from_dataset(load_benchmark(pairs, split="train"), 4)
    # 40 rows of 48 pixels, the first void: three bands of 16; a 4 x 4 sign on the sky of 2 images
    # in 6.
    assert statistics.pixel_counts.tolist() == [6 * 39 * 16 - 32, 6 * 39 * 16, 6 * 39 * 16, 32]
    assert statistics.image_counts.tolist() == [6, 6, 6, 2]
    assert statistics.groups == {"head": [0, 1, 2], "middle": [], "tail": [3]}
    expected = np.mean([(6 * 39 * 16 - 32) / 32, 6 * 39 * 16 / 32, 6 * 39 * 16 / 32])
    assert statistics.imbalance_ratio == pytest.approx(expected)


def test_published_batch_size_for_cityscapes_like_data():
    # K = 19, delta = .01, rarest class in 1 % of the images: 751.2, rounded up.
    statistics = ClassStatistics(
        np.full(19, 10), np.array([1] + [100] * 18), 100, split_by_share(np.full(19, 10))
    )
    assert statistics.batch_size_for(0.01) == 752
    with pytest.raises(InputError, match="delta"):
        statistics.batch_size_for(0)


def test_chosen_tail_and_absent_classes(pairs):
    records = load_benchmark(pairs, split="train")
    statistics = ClassStatistics.from_dataset(records, 5, tail_classes=[1, 4])
    assert statistics.groups == {"head": [0, 2], "middle": [3], "tail": [1, 4]}
    assert statistics.pixel_counts[4] == 0
    assert math.isfinite(statistics.imbalance_ratio)
    with pytest.raises(InputError, match="tail class 5"):
        ClassStatistics.from_dataset(records, 5, tail_classes=[5])


def test_wrong_id_names_the_file(pairs):
    with pytest.raises(InputError, match=r"id 3 in .*000\.png"):
        ClassStatistics.from_dataset(load_benchmark(pairs, split="train"), 3)


def test_save_and_load(pairs, tmp_path):
    statistics = ClassStatistics.from_dataset(load_benchmark(pairs, split="val"), 4)
    statistics.save(tmp_path / "statistics.json")
    loaded = ClassStatistics.load(tmp_path / "statistics.json")
    assert loaded.groups == statistics.groups
    np.testing.assert_array_equal(loaded.pixel_counts, statistics.pixel_counts)
    np.testing.assert_array_equal(loaded.presence, statistics.presence)
    for content in ("no json", '{"num_images": 3}', "[]"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(InputError, match=r"other\.json"):
            ClassStatistics.load(tmp_path / "other.json")


def test_presence_tells_which_image_holds_which_class(pairs):
    records = load_benchmark(pairs, split="train")
    statistics = ClassStatistics.from_dataset(records, 5)
    expected = [[c in np.asarray(record["label"]) for c in range(5)] for record in records]
    assert statistics.presence.tolist() == expected


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any))
def test_gini_is_the_mean_difference_of_all_pairs(counts):
    counts = np.array(counts)
    statistics = ClassStatistics(counts, counts, 1, {})
    pairs = np.abs(counts[:, None] - counts[None]).sum()
    assert statistics.gini == pytest.approx(pairs / (2 * len(counts) * counts.sum()), abs=1e-12)


def test_missing_probability_equals_drawing(pairs):
    statistics = ClassStatistics.from_dataset(load_benchmark(pairs, split="train"), 5)
    # The sign is in 2 of 6 images, class 4 in none, the others in all.
    np.testing.assert_allclose(statistics.missing_probability(3), [0, 0, 0, (4 / 6) ** 3, 1])
    drawn = np.random.default_rng(0).integers(6, size=(20000, 3))
    lacking = 1 - statistics.presence[drawn].any(axis=1).mean(axis=0)
    np.testing.assert_allclose(statistics.missing_probability(3), lacking, atol=0.01)
