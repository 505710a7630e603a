import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dataset import dataset_of
from torch.utils.data import DataLoader

from aucseg_hf import ClassStatistics, InputError, TrainAugmentation, load_benchmark
from aucseg_hf.data import collate
from aucseg_hf.data.sampling import (
    RepeatFactorDataset,
    epoch_length,
    repeat_factors,
    repeated_indices,
)


def test_factors_by_hand():
    # Shares 1, 1/4 and 1/100 of 100 images, and a class that never occurs; threshold 1/4.
    presence = np.zeros((100, 4), bool)
    presence[:99, 0] = True
    presence[:25, 1] = True
    presence[3, 2] = True
    factors = repeat_factors(presence, 0.25)
    assert factors[3] == pytest.approx(5)  # sqrt(.25 / .01)
    assert factors[99] == 1  # an image without any class
    assert np.delete(factors, 3).tolist() == [1] * 99
    assert repeat_factors(presence, 1.0)[0] == pytest.approx(2)  # sqrt(1 / .25)
    for wrong in (0, 1.5):
        with pytest.raises(InputError, match="threshold"):
            repeat_factors(presence, wrong)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.just(1.0), st.floats(1, 9)), min_size=1, max_size=60), st.integers(0, 99)
)
def test_counts_are_the_factors_rounded_up_or_down(factors, seed):
    factors = np.array(factors)
    indices = repeated_indices(factors, np.random.default_rng(seed))
    counts = np.bincount(indices, minlength=len(factors))
    assert len(indices) == epoch_length(factors)
    assert (counts >= np.floor(factors)).all()
    # The length is rounded up, which a single fraction may have to take.
    assert (counts <= np.ceil(factors) + 1).all()
    assert (np.diff(indices) >= 0).all()


def test_counts_are_the_factors_in_the_mean():
    factors = np.array([1, 1.25, 1.5, 3.75, 2.5, 1.0])
    total = sum(
        np.bincount(repeated_indices(factors, np.random.default_rng(seed)), minlength=6)
        for seed in range(4000)
    )
    np.testing.assert_allclose(total / 4000, factors, atol=0.03)


def repeated(pairs, **options):
    statistics = ClassStatistics.from_dataset(load_benchmark(pairs, split="train"), 4)
    factors = repeat_factors(statistics.presence, 1.0)
    # The sign is in 2 of 6 images: sqrt(3) = 1.73 each, so an epoch has ceil(4 + 3.46) images.
    return RepeatFactorDataset(dataset_of(pairs, **options), factors, seed=7)


def test_an_epoch_repeats_images_with_the_rare_class(pairs):
    dataset = repeated(pairs)
    assert len(dataset) == 8
    counts = []
    for epoch in range(20):
        dataset.set_epoch(epoch)
        names = [dataset[p]["name"][-7:] for p in range(8)]
        assert set(names) == {f"00{i}.jpg" for i in range(6)}
        counts.append(names.count("000.jpg") + names.count("003.jpg"))
    assert counts == [4] * 20
    dataset.set_epoch(3)
    again = dataset.indices.tolist()
    dataset.set_epoch(4)
    dataset.set_epoch(3)
    assert dataset.indices.tolist() == again


def test_repetitions_are_augmented_apart_and_the_first_as_ever(pairs):
    dataset = repeated(pairs, augmentation=TrainAugmentation((32, 32)), seed=5)
    dataset.set_epoch(2)
    plain = dataset_of(pairs, augmentation=TrainAugmentation((32, 32)), seed=5)
    plain.set_epoch(2)
    positions = np.flatnonzero(dataset.indices == 0)
    first, second = (dataset[int(p)]["pixel_values"] for p in positions)
    torch.testing.assert_close(first, plain[0]["pixel_values"], rtol=0, atol=0)
    assert not torch.equal(first, second)
    # Workers that outlive an epoch see the next.
    loader = DataLoader(
        dataset, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=collate
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        names = next(iter(loader))["names"]
        assert names == [dataset[p]["name"] for p in range(8)]


def test_a_factor_for_every_image(pairs):
    with pytest.raises(InputError, match="expected 6 repeat factors, got 5"):
        RepeatFactorDataset(dataset_of(pairs), np.ones(5))
