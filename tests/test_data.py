import numpy as np
import PIL.Image
import pytest
import torch
from conftest import write_pairs
from transformers import SegformerImageProcessor

from aucseg_hf import InputError, SegmentationDataset, TrainAugmentation, load_benchmark
from aucseg_hf.data import collate


def save(array, path):
    PIL.Image.fromarray(array).save(path)


def dataset_of(benchmark, split="train", **kwargs):
    return SegmentationDataset(
        benchmark[split], benchmark.info.label_rule, SegformerImageProcessor(), **kwargs
    )


@pytest.mark.parametrize("suffix", ["images/001.jpg", "labels/001.png"])
def test_truncated_and_unreadable_files_are_named(pairs, suffix):
    path = pairs / "train" / suffix
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"not an image"):
        path.write_bytes(broken)
        benchmark = load_benchmark(pairs)
        with pytest.raises(InputError, match=str(path)):
            benchmark.check_files()
        dataset = dataset_of(benchmark)
        with pytest.raises(InputError, match=str(path)):
            dataset[1]


def test_sizes_that_differ_are_named(pairs):
    save(np.zeros((40, 47), np.uint8), pairs / "train/labels/001.png")
    benchmark = load_benchmark(pairs)
    with pytest.raises(InputError, match=r"001\.jpg is 48x40.*001\.png is 47x40"):
        benchmark.check_files()
    with pytest.raises(InputError, match=r"001\.jpg is 48x40.*001\.png is 47x40"):
        dataset_of(benchmark)[1]


def test_evaluation_pixels_equal_the_image_processor(pairs):
    benchmark = load_benchmark(pairs)
    example = dataset_of(benchmark, "val")[1]
    processor = SegformerImageProcessor(do_resize=False)
    expected = processor(benchmark["val"][1]["image"], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(example["pixel_values"], expected, rtol=0, atol=0)
    np.testing.assert_array_equal(
        example["labels"].numpy(), np.asarray(PIL.Image.open(pairs / "val/labels/001.png"))
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_image_modes_become_rgb(pairs, mode):
    path = pairs / "val/images/000.jpg"
    image = PIL.Image.open(path).convert(mode)
    path.unlink()
    image.save(path.with_suffix(".tif"))
    assert dataset_of(load_benchmark(pairs), "val")[0]["pixel_values"].shape == (3, 40, 48)


def test_augmentation_is_keyed_by_seed_epoch_and_index(pairs):
    augmentation = TrainAugmentation((32, 32))
    benchmark = load_benchmark(pairs)
    dataset = dataset_of(benchmark, augmentation=augmentation, seed=1)
    first = dataset[2]["pixel_values"]
    torch.rand(7)  # the global generator plays no part
    torch.testing.assert_close(dataset[2]["pixel_values"], first, rtol=0, atol=0)
    dataset.set_epoch(1)
    assert not torch.equal(dataset[2]["pixel_values"], first)
    dataset.set_epoch(0)
    other_seed = dataset_of(benchmark, augmentation=augmentation, seed=2)
    assert not torch.equal(other_seed[2]["pixel_values"], first)
    loader = torch.utils.data.DataLoader(dataset, batch_size=6, num_workers=2, collate_fn=collate)
    torch.testing.assert_close(next(iter(loader))["pixel_values"][2], first, rtol=0, atol=0)


def test_persistent_workers_see_the_next_epoch(pairs):
    dataset = dataset_of(load_benchmark(pairs), augmentation=TrainAugmentation((32, 32)))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=6, num_workers=1, persistent_workers=True, collate_fn=collate
    )
    next(iter(loader))
    dataset.set_epoch(1)
    batch = next(iter(loader))["pixel_values"]
    torch.testing.assert_close(batch[0], dataset[0]["pixel_values"], rtol=0, atol=0)


def test_image_and_label_stay_aligned():
    """An image that holds its own label in every channel still does after scale, crop and flip."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(60, 90, dtype=torch.uint8)
    label[20:40, 30:70] = 200
    for crop_size in ((32, 48), (128, 100)):
        augmentation = TrainAugmentation(crop_size, photometric=False)
        for _ in range(20):
            image, mask = augmentation(label.expand(3, -1, -1), label, generator)
            assert image.shape[1:] == mask.shape == crop_size
            valid = mask != 255
            assert valid.any()
            disagree = (image[0].float() - mask.float()).abs()[valid] > 100
            assert disagree.float().mean() < 0.02  # antialiased edges only


def test_crop_avoids_a_dominating_class():
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[:, 32:] = 1
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    augmentation = TrainAugmentation((32, 32), scale=(1.0, 1.0))
    shares = []
    for _ in range(50):
        _, mask = augmentation(image, label, generator)
        shares.append(max((mask == 0).float().mean(), (mask == 1).float().mean()).item())
    # A uniform crop has a class above 75 % in half of the draws; ten draws leave 0.5 ** 10.
    assert max(shares) <= 0.76


def test_collate_stacks_equal_sizes_and_lists_others(tmp_path):
    folder = write_pairs(tmp_path / "mixed", num_val=2)
    save(np.zeros((20, 30), np.uint8), folder / "val/labels/001.png")
    save(np.zeros((20, 30, 3), np.uint8), folder / "val/images/001.jpg")
    benchmark = load_benchmark(folder)
    train, val = dataset_of(benchmark), dataset_of(benchmark, "val")
    assert collate([train[0], train[1]])["labels"].shape == (2, 40, 48)
    mixed = collate([val[0], val[1]])
    assert [tuple(t.shape) for t in mixed["pixel_values"]] == [(3, 40, 48), (3, 20, 30)]
