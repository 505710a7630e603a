import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_config, write_pairs
from test_trainer import make_trainer
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import SegformerImageProcessor

from aucseg_hf import (
    AUCSegTrainer,
    ClassStatistics,
    InputError,
    SegmentationDataset,
    TrainAugmentation,
    images,
    load_benchmark,
)
from aucseg_hf.cli import run
from aucseg_hf.data import LabelRule, collate


def to_rgb(image):
    return pil_to_tensor(images.to_rgb(image))


def dataset_of(folder, split="train", **options):
    benchmark = load_benchmark(folder)
    return SegmentationDataset(
        benchmark[split],
        benchmark.info.label_rule,
        SegformerImageProcessor(),
        split=split,
        **options,
    )


def in_memory(image, label, **options):
    """A data set of one pair that is no file."""
    return SegmentationDataset(
        [{"image": image, "label": label}], LabelRule(3), SegformerImageProcessor(), **options
    )


# Names


def test_examples_are_named_by_file_or_by_split_and_index(pairs):
    dataset = dataset_of(pairs)
    files = [str(pairs / f"train/images/00{i}.jpg") for i in (4, 1)]
    batch = collate([dataset[4], dataset[1]])
    assert batch["names"] == files
    scenes = load_benchmark("scenes", size=32, num_train=3)
    drawn = SegmentationDataset(
        scenes["train"], scenes.info.label_rule, SegformerImageProcessor(), split="train"
    )
    assert drawn[2]["name"] == "train 2"
    nameless = {key: dataset[0][key] for key in ("pixel_values", "labels")}
    assert "names" not in collate([nameless, dataset[1]])


class NameKeeper(AUCSegTrainer):
    """Keeps what reaches the training loss, in the order of the steps."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training:
            self.__dict__.setdefault("seen", []).append((inputs["names"], inputs["labels"]))
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.mark.parametrize("workers", [0, 2])
def test_trainer_carries_the_names(pairs, tmp_path, workers):
    dataset = dataset_of(pairs)
    trainer = make_trainer(
        tmp_path / "run",
        dataset,
        dataset_of(pairs, "val"),
        trainer_class=NameKeeper,
        num_train_epochs=1,
        per_device_train_batch_size=2,
        dataloader_num_workers=workers,
    )
    trainer.train()
    by_name = {example["name"]: example["labels"] for example in map(dataset.__getitem__, range(6))}
    assert sorted(name for names, _ in trainer.seen for name in names) == sorted(by_name)
    for names, labels in trainer.seen:
        torch.testing.assert_close(labels, torch.stack([by_name[name] for name in names]))
    assert trainer.evaluate()["eval_mean_iou"] >= 0


# Files that do not decode


def break_file(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_file_amid_an_epoch_is_named_in_one_sentence(pairs, capsys, workers):
    broken = break_file(pairs / "train/images/003.jpg")
    loader = DataLoader(dataset_of(pairs), 2, num_workers=workers, collate_fn=collate)
    assert run(lambda _: list(loader)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot read {broken}: ")


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_files_are_replaced_by_the_next_that_is_readable(pairs, workers):
    for name in ("images/002.jpg", "labels/003.png", "images/005.jpg"):
        break_file(pairs / "train" / name)
    dataset = dataset_of(pairs, augmentation=TrainAugmentation((32, 32)), skip_corrupt=True)
    loader = DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=collate)
    epochs = [list(loader) for _ in range(2)]
    names = [batch["names"][0][-7:] for batch in epochs[0]]
    assert names == [f"00{i}.jpg" for i in (0, 1, 4, 4, 4, 0)]
    assert dataset.num_corrupt == 3
    for first, again in zip(*epochs, strict=True):
        torch.testing.assert_close(again["pixel_values"], first["pixel_values"], rtol=0, atol=0)
    # The stand-in is augmented as the record it stands for, not as itself.
    assert not torch.equal(epochs[0][2]["pixel_values"], epochs[0][4]["pixel_values"])


def test_each_corrupt_file_is_warned_of_once(pairs, monkeypatch):
    broken = break_file(pairs / "train/images/001.jpg")
    warnings = []
    monkeypatch.setattr(
        "aucseg_hf.data.dataset.logger.warning", lambda text, error: warnings.append(str(error))
    )
    dataset = dataset_of(pairs, skip_corrupt=True)
    for i in (1, 0, 1):
        dataset[i]
    assert len(warnings) == 1
    assert str(broken) in warnings[0]


def test_nothing_readable_and_wrong_ids_are_errors_all_the_same(pairs):
    PIL.Image.new("L", (48, 40), 77).save(pairs / "train/labels/000.png")
    with pytest.raises(InputError, match="77"):
        dataset_of(pairs, skip_corrupt=True)[0]
    for path in (pairs / "train/images").iterdir():
        break_file(path)
    with pytest.raises(InputError, match="none of the 6 records"):
        dataset_of(pairs, skip_corrupt=True)[0]


# Images as people have them


def channels(image):
    return np.asarray(image).transpose(2, 0, 1)


def test_exif_rotated_images_are_turned_upright_and_keep_their_name(pairs):
    path = pairs / "val/images/000.jpg"
    upright = PIL.Image.open(path).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are to be read from the right
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(path, exif=exif, quality=100)
    benchmark = load_benchmark(pairs)
    benchmark.check_files()
    dataset = dataset_of(pairs, "val")
    image, label = dataset.read(0)
    assert image.shape[1:] == label.shape == (40, 48)
    assert np.abs(image.numpy() - channels(upright).astype(int)).mean() < 3
    assert dataset[0]["name"] == str(path)


def test_grey_alpha_and_palette_images():
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10)
    expected = np.stack([grey] * 3)
    image = PIL.Image.fromarray(grey)
    np.testing.assert_array_equal(to_rgb(image), expected)
    alpha = image.convert("RGBA")
    alpha.putalpha(PIL.Image.fromarray(grey))  # colours under transparency are kept as they are
    np.testing.assert_array_equal(to_rgb(alpha), expected)
    np.testing.assert_array_equal(to_rgb(image.convert("RGB").convert("P")).shape, (3, 6, 10))


def test_16_bit_levels_keep_their_high_byte(tmp_path):
    levels = np.array([[0, 255, 256, 65535], [1000, 30000, 32768, 257]], np.uint16)
    PIL.Image.fromarray(levels).save(tmp_path / "deep.png")
    pixels = to_rgb(PIL.Image.open(tmp_path / "deep.png"))
    for channel in pixels.numpy():
        np.testing.assert_array_equal(channel, [[0, 0, 1, 255], [3, 117, 128, 1]])


def test_cmyk_jpeg_has_the_colours_of_the_rgb_image(tmp_path):
    colors = np.zeros((16, 16, 3), np.uint8)
    colors[:8] = (200, 40, 90)
    colors[8:] = (30, 160, 220)
    image = PIL.Image.fromarray(colors)
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    opened = PIL.Image.open(tmp_path / "print.jpg")
    assert opened.mode == "CMYK"
    assert np.abs(to_rgb(opened).numpy() - channels(image).astype(int)).max() <= 6


def test_images_below_the_crop_are_padded_with_their_mean_and_void():
    image = PIL.Image.fromarray(np.full((20, 24, 3), (10, 100, 200), np.uint8))
    label = PIL.Image.fromarray(np.ones((20, 24), np.uint8))
    augmentation = TrainAugmentation((32, 40), (1.0, 1.0), photometric=False)
    example = in_memory(image, label, augmentation=augmentation)[0]
    processor = SegformerImageProcessor()
    expected = (np.array([10, 100, 200]) / 255 - processor.image_mean) / processor.image_std
    for channel, value in zip(example["pixel_values"].numpy(), expected, strict=True):
        np.testing.assert_allclose(channel, value, rtol=1e-5)
    assert (example["labels"] == 1).sum() == 20 * 24
    assert (example["labels"] == 255).sum() == 32 * 40 - 20 * 24


def test_a_class_that_never_occurs(tmp_path):
    folder = write_pairs(tmp_path / "data", num_train=4, num_val=2)
    (folder / "id2label.json").write_text('["sky", "road", "car", "sign", "unicorn"]')
    benchmark = load_benchmark(folder)
    statistics = ClassStatistics.from_dataset(benchmark["train"], 5)
    assert statistics.image_counts.tolist() == [4, 4, 4, 2, 0]
    assert statistics.tail_classes == [3, 4]
    # log(.01 / 4) / log(1 - 2 / 4) = 8.6: of the classes that occur.
    assert statistics.batch_size_for(0.01) == 9
    trainer = make_trainer(
        tmp_path / "run",
        dataset_of(folder),
        dataset_of(folder, "val"),
        config=tiny_config(5),
        statistics=statistics,
        max_steps=2,
        per_device_train_batch_size=2,
        logging_steps=1,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert np.isfinite(losses).all()
    assert list(trainer.bank.tail_classes) == [3, 4]
    measures = trainer.evaluate()
    assert np.isnan(trainer.last_evaluation["per_category_iou"][4])
    assert np.isfinite(measures["eval_mean_iou"])
