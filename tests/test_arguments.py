import pytest
from test_dataset import break_file

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
