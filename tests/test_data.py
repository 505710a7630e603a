import json

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import write_pairs
from transformers import SegformerImageProcessor

from aucseg_hf import InputError, SegmentationDataset, TrainAugmentation, load_benchmark
from aucseg_hf.data import LabelRule, collate
from aucseg_hf.data.scenes import draw_scene


def save(array, path):
    PIL.Image.fromarray(array).save(path)


# Labels


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16"])
def test_label_modes_give_the_same_ids(mode):
    ids = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    mask = PIL.Image.fromarray(ids)
    if mode == "P":
        mask.putpalette([7] * 768)
    elif mode == "I":
        mask = mask.convert("I")
    elif mode == "I;16":
        mask = PIL.Image.fromarray(ids.astype(np.uint16))
    assert mask.mode in (mode, "P")
    np.testing.assert_array_equal(LabelRule(3)(mask), ids)


def test_one_bit_masks_are_two_classes():
    ids = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(LabelRule(2)(PIL.Image.fromarray(ids > 0)), ids)


def test_another_ignore_index_becomes_void():
    mask = PIL.Image.fromarray(np.array([[0, 9, 2]], np.uint8))
    np.testing.assert_array_equal(LabelRule(3, ignore_index=9)(mask), [[0, 255, 2]])


def test_label_errors_name_file_and_id():
    with pytest.raises(InputError, match=r"id 7 in a\.png is outside 0\.\.2"):
        LabelRule(3)(PIL.Image.fromarray(np.array([[0, 7]], np.uint8)), "a.png")
    with pytest.raises(InputError, match=r"a\.png, got mode RGB"):
        LabelRule(3)(PIL.Image.new("RGB", (2, 2)), "a.png")
    with pytest.raises(InputError, match="300"):
        LabelRule(300)


# Benchmarks


def test_folder_of_pairs(pairs):
    benchmark = load_benchmark(pairs)
    assert {split: len(records) for split, records in benchmark.items()} == {"train": 6, "val": 3}
    assert benchmark.info.class_names == ("sky", "road", "car", "sign")
    assert benchmark.info.ignore_index == 255
    record = benchmark["train"][3]
    np.testing.assert_array_equal(
        np.asarray(record["label"]), np.asarray(PIL.Image.open(pairs / "train/labels/003.png"))
    )
    assert record["image"].filename == str(pairs / "train/images/003.jpg")
    assert load_benchmark(pairs, split="val")[0]["image"].size == (48, 40)
    with pytest.raises(InputError, match="test"):
        load_benchmark(pairs, split="test")


def test_camvid_as_it_lies_there(camvid):
    benchmark = load_benchmark(camvid)
    assert (len(benchmark["train"]), len(benchmark["val"])) == (367, 101)
    assert benchmark.info.class_names[10] == "bicyclist"
    benchmark.check_files()


def test_class_names_and_palette_options(pairs):
    (pairs / "id2label.json").unlink()
    with pytest.raises(InputError, match=r"id2label\.json"):
        load_benchmark(pairs)
    benchmark = load_benchmark(pairs, id2label="a,b,c,d")
    assert benchmark.info.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    (pairs / "palette.json").write_text(json.dumps(palette))
    loaded = load_benchmark(pairs, id2label="a,b,c,d").info.palette
    assert loaded == tuple(map(tuple, palette))
    (pairs / "palette.json").write_text(json.dumps(palette[:3]))
    with pytest.raises(InputError, match="4 colours"):
        load_benchmark(pairs, id2label="a,b,c,d")


@pytest.mark.parametrize(
    ("content", "message"),
    [("not json", "JSON"), ('{"0": "a", "2": "b"}', r"0\.\.1"), ('{"a": 0}', "name")],
)
def test_wrong_id2label_files(pairs, content, message):
    (pairs / "id2label.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_benchmark(pairs)


def break_folder(pairs, fault):
    train = pairs / "train"
    if fault == "missing":
        return pairs / "nowhere"
    if fault == "layout":
        return train / "images"
    if fault == "image without label":
        (train / "labels/002.png").unlink()
    if fault == "label without image":
        (train / "images/002.jpg").unlink()
    if fault == "empty":
        for path in [*train.glob("*/*")]:
            path.unlink()
    if fault == "twice":
        PIL.Image.open(train / "images/002.jpg").save(train / "images/002.png")
    return pairs


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "no such folder"),
        ("layout", "found no such folder"),
        ("image without label", r"image without label: .*002\.jpg"),
        ("label without image", r"label without image: .*002\.png"),
        ("empty", "empty split"),
        ("twice", "two files with one name"),
    ],
)
def test_broken_folders(pairs, fault, message):
    with pytest.raises(InputError, match=message):
        load_benchmark(break_folder(pairs, fault))


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


def test_bytes_after_the_end_marker_are_no_fault(pairs):
    path = pairs / "train/images/001.jpg"
    path.write_bytes(path.read_bytes() + b"\0trailing")
    load_benchmark(pairs).check_files()


def test_sizes_that_differ_are_named(pairs):
    save(np.zeros((40, 47), np.uint8), pairs / "train/labels/001.png")
    benchmark = load_benchmark(pairs)
    with pytest.raises(InputError, match=r"001\.jpg is 48x40.*001\.png is 47x40"):
        benchmark.check_files()
    with pytest.raises(InputError, match=r"001\.jpg is 48x40.*001\.png is 47x40"):
        dataset_of(benchmark)[1]


def test_scenes_are_drawn_when_they_are_read():
    benchmark = load_benchmark("scenes", size=(48, 64), seed=3, num_train=5, num_val=2)
    assert benchmark["train"].column_names == ["image", "label"]
    image, label = draw_scene(4, split="train", seed=3, size=(48, 64))
    record = benchmark["train"][4]
    np.testing.assert_array_equal(np.asarray(record["image"]), image)
    np.testing.assert_array_equal(np.asarray(record["label"]), label)
    shuffled = benchmark["train"].select([2, 4])
    np.testing.assert_array_equal(np.asarray(shuffled[1]["label"]), label)
    defaults = load_benchmark("scenes")
    assert (len(defaults["train"]), len(defaults["val"])) == (400, 100)
    assert defaults["val"][0]["image"].size == (128, 128)


# Dataset, augmentation, batches


def dataset_of(benchmark, split="train", **kwargs):
    return SegmentationDataset(
        benchmark[split], benchmark.info.label_rule, SegformerImageProcessor(), **kwargs
    )


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
