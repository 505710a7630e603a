import PIL.Image
import pytest
from test_dataset import break_file
from test_streaming import write_parquet
from tiny_models import tiny_config_of

from aucseg_hf import AUCSegTrainingArguments, InputError
from aucseg_hf.data.arguments import DataArguments, load_training_data


def load(folder, tmp_path, tail_classes=None, **options):
    args = AUCSegTrainingArguments(
        str(tmp_path / "run"), use_cpu=True, seed=5, tail_classes=tail_classes
    )
    return load_training_data(DataArguments(dataset=str(folder), **options), args)


def test_what_a_script_gets(pairs, tmp_path):
    data = load(pairs, tmp_path, tail_classes=["car", "3"])
    assert (len(data.train_dataset), len(data.eval_dataset)) == (6, 3)
    assert data.info.class_names == ("sky", "road", "car", "sign")
    assert data.statistics.groups == {"head": [0, 1], "middle": [], "tail": [2, 3]}
    assert data.statistics.image_counts.tolist() == [6, 6, 6, 2]
    # The crop is at most the image, and evaluation sees images as they are.
    assert data.train_dataset[0]["labels"].shape == (40, 48)
    assert data.eval_dataset[0]["labels"].shape == (40, 48)
    assert data.train_dataset.image_mean == list(data.image_processor.image_mean)


def test_crop_and_scale(pairs, tmp_path):
    data = load(pairs, tmp_path, crop_size=[32, 64], scale=[1.0, 1.0])
    labels = data.train_dataset[0]["labels"]
    assert labels.shape == (32, 64)
    assert (labels[:, 48:] == 255).all()  # at scale 1 the image is 48 wide
    assert DataArguments(crop_size=[64]).crop_size_for(40, 48) == (64, 64)
    assert DataArguments().crop_size_for(1024, 300) == (512, 300)
    with pytest.raises(InputError, match=r"\[16\]"):
        load(pairs, tmp_path, crop_size=[16])
    with pytest.raises(InputError, match="LOW <= HIGH"):
        load(pairs, tmp_path, scale=[2.0, 0.5])


@pytest.mark.parametrize(
    ("model_type", "size", "crop"),
    [
        ("segformer", (300, 1000), (300, 512)),
        ("beit", (300, 1000), (296, 512)),
        ("eomt", (300, 300), (32, 32)),
    ],
)
def test_default_crop_is_one_the_model_takes(tmp_path, model_type, size, crop):
    """Patches of 8, and one fixed size of 32."""
    tiny_config_of(model_type).save_pretrained(tmp_path)
    assert DataArguments(model=str(tmp_path)).crop_size_for(*size) == crop


def test_published_tail_is_the_default(tmp_path):
    """Black everywhere is class 0; the published tail of ADE20K does not depend on that."""
    for part in ("images", "annotations"):
        for split in ("training", "validation"):
            folder = tmp_path / part / split
            folder.mkdir(parents=True)
            mode = "RGB" if part == "images" else "L"
            PIL.Image.new(mode, (40, 32), 1 if mode == "L" else (9, 9, 9)).save(folder / "a.png")
    data = load("ade20k", tmp_path, data_root=str(tmp_path))
    assert data.statistics.tail_classes == list(data.info.tail_classes)
    assert len(data.statistics.tail_classes) > 50


def test_skip_corrupt_holds_for_training_only(pairs, tmp_path):
    image = break_file(pairs / "train/images/000.jpg")
    label = break_file(pairs / "train/labels/001.png")
    with pytest.raises(InputError, match=str(image)):
        load(pairs, tmp_path)
    data = load(pairs, tmp_path, skip_corrupt=True)
    assert data.train_dataset[0]["name"] == str(pairs / "train/images/002.jpg")
    assert data.statistics.num_images == 5
    assert data.statistics.presence.tolist()[1] == [False] * 4
    assert str(label) not in [data.train_dataset[i]["name"] for i in range(6)]
    image = break_file(pairs / "val/images/000.jpg")
    with pytest.raises(InputError, match=str(image)):
        load(pairs, tmp_path, skip_corrupt=True)


def test_repeat_factor_sampling(pairs, tmp_path):
    data = load(pairs, tmp_path, sampling="repeat_factor", repeat_threshold=1.0)
    # The sign is in 2 of 6 images: 4 + 2 sqrt(3), rounded up.
    assert len(data.train_dataset) == 8
    assert data.train_dataset.image_std == data.eval_dataset.image_std
    with pytest.raises(InputError, match="sampling"):
        load(pairs, tmp_path, sampling="balanced")


def test_streaming_from_shards(pairs, tmp_path):
    folder = write_parquet(pairs, tmp_path / "shards")
    args = AUCSegTrainingArguments(
        str(tmp_path / "run"), use_cpu=True, per_device_train_batch_size=2
    )
    options = {"dataset": str(folder), "streaming": True}
    data = load_training_data(DataArguments(**options), args)
    assert data.statistics.image_counts.tolist() == [6, 6, 6, 2]
    examples = list(data.train_dataset)
    assert sorted(example["name"] for example in examples) == [f"00{i}.jpg" for i in range(6)]
    assert examples[0]["labels"].shape == (40, 48)
    with pytest.raises(InputError, match="--sampling"):
        load_training_data(DataArguments(**options, sampling="repeat_factor"), args)
    args.auto_find_batch_size = True
    with pytest.raises(InputError, match="--auto_find_batch_size"):
        load_training_data(DataArguments(**options), args)
