"""Miniature trees of every benchmark, as its authors hand it out."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from aucseg_hf import InputError, load_benchmark
from aucseg_hf.data.benchmark_table import ROWS


def write(path: Path, pixels):
    """Saves rows of ids as a label image, one number as a grey photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(pixels, np.uint8)
    if array.ndim == 0:
        PIL.Image.new("RGB", (3, 2), (int(array),) * 3).save(path)
    else:
        PIL.Image.fromarray(array).save(path)


def write_cityscapes(root, kinds=("labelIds",), splits=("train", "val")):
    for split in splits:
        for i, city in enumerate(("aachen", "ulm")):
            stem = f"{city}/{city}_00000{i}_000019"
            write(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", 10 * i)
            for kind in kinds:
                # road, void, bicycle; car, polegroup (void), train
                pixels = {
                    "labelIds": [[7, 0, 33], [26, 18, 31]],
                    "labelTrainIds": [[0, 255, 18], [13, 255, 16]],
                    "color": [[1, 1, 1], [1, 1, 1]],
                }[kind]
                write(root / f"gtFine/{split}/{stem}_gtFine_{kind}.png", pixels)
    return root


def write_ade20k(root):
    for split, name in (("training", "train"), ("validation", "val")):
        write(root / f"images/{split}/ADE_{name}_00000001.jpg", 50)
        write(root / f"annotations/{split}/ADE_{name}_00000001.png", [[0, 1, 2], [13, 150, 0]])
    return root


def write_coco(root, folder="stuffthingmaps", train_ids=False):
    for split in ("train2017", "val2017"):
        write(root / f"images/{split}/000000000009.jpg", 50)
        # person, stop sign, toothbrush; banner, wood, void
        pixels = [[0, 12, 89], [91, 181, 255]]
        write(root / f"{folder}/{split}/000000000009.png", pixels)
        if train_ids:
            pixels = [[0, 11, 79], [80, 170, 255]]
            write(root / f"{folder}/{split}/000000000009_labelTrainIds.png", pixels)
    return root


def write_segnet_camvid(root):
    for split in ("train", "val", "test"):
        write(root / split / "0001TP_006690.png", 50)
        write(root / f"{split}annot/0001TP_006690.png", [[0, 10, 11], [3, 11, 8]])
    return root


def write_camvid_lists(root):
    write(root / "frames/one.png", 50)
    write(root / "masks/one.png", [[0, 10, 11], [3, 11, 8]])
    for split in ("train", "val"):
        line = "/SegNet/CamVid/frames/one.png /SegNet/CamVid/masks/one.png\n\n"
        (root / f"{split}.txt").write_text(line)
    return root


def write_camvid_pairs(root):
    for split in ("train", "val"):
        write(root / split / "images/one.jpg", 50)
        write(root / split / "labels/one.png", [[0, 10, 255], [3, 255, 8]])
    return root


CITYSCAPES = [[0, 255, 18], [13, 255, 16]]
COCO = [[0, 11, 79], [80, 170, 255]]
CAMVID = [[0, 10, 255], [3, 255, 8]]
TREES = {
    "cityscapes": (write_cityscapes, CITYSCAPES),
    "cityscapes both": (
        lambda root: write_cityscapes(root, ("labelIds", "color", "labelTrainIds")),
        CITYSCAPES,
    ),
    "cityscapes train ids": (lambda root: write_cityscapes(root, ("labelTrainIds",)), CITYSCAPES),
    "ade20k": (write_ade20k, [[255, 0, 1], [12, 149, 255]]),
    "coco_stuff_164k": (write_coco, COCO),
    "coco_stuff_164k annotations": (lambda root: write_coco(root, "annotations"), COCO),
    "coco_stuff_164k both": (lambda root: write_coco(root, "annotations", True), COCO),
    "camvid": (write_segnet_camvid, CAMVID),
    "camvid lists": (write_camvid_lists, CAMVID),
}


def ids_of(benchmark, split, index=0):
    return benchmark.info.label_rule(benchmark[split][index]["label"])


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("by", ["name", "path"])
def test_official_trees(tmp_path, tree, by):
    writer, expected = TREES[tree]
    root, name = writer(tmp_path), tree.split()[0]
    benchmark = load_benchmark(name, root=root) if by == "name" else load_benchmark(root)
    assert benchmark.info.name == name
    assert benchmark.info.class_names == ROWS[name].info.class_names
    assert {"train", "val"} <= benchmark.keys() <= {"train", "val", "test"}
    for split in benchmark:
        np.testing.assert_array_equal(ids_of(benchmark, split), expected)
    benchmark.check_files()


def test_a_camvid_of_class_ids_is_known_by_its_name(tmp_path):
    benchmark = load_benchmark("camvid", root=write_camvid_pairs(tmp_path))
    np.testing.assert_array_equal(ids_of(benchmark, "val"), CAMVID)


def test_camvid_by_name_equals_its_published_counts(camvid):
    benchmark = load_benchmark("camvid", root=camvid)
    names = dict(enumerate(load_benchmark(camvid).info.class_names))
    assert benchmark.info.id2label == names
    counts = sum(
        np.bincount(benchmark.info.label_rule(record["label"]).ravel(), minlength=256)
        for record in benchmark["val"]
    )
    # Table of the copy's README: per cent of the labelled pixels of val.
    expected = [9.336, 26.412, 0.574, 29.455, 8.870, 16.619, 0.908, 3.131, 1.776, 0.662, 2.256]
    np.testing.assert_allclose(100 * counts[:11] / counts[:11].sum(), expected, atol=6e-4)
    assert counts[:11].sum() + counts[255] == 101 * 480 * 360


def test_images_and_labels_of_nested_folders_pair_up(tmp_path):
    benchmark = load_benchmark("cityscapes", root=write_cityscapes(tmp_path))
    for i, (image, label) in enumerate(benchmark.files["val"]):
        city = ("aachen", "ulm")[i]
        assert image.name == f"{city}_00000{i}_000019_leftImg8bit.png"
        assert label.name == f"{city}_00000{i}_000019_gtFine_labelIds.png"
        assert benchmark["val"][i]["image"].getpixel((0, 0)) == (10 * i,) * 3


def test_incomplete_train_ids_are_left_for_complete_raw_ids(tmp_path):
    write_cityscapes(tmp_path, ("labelIds", "labelTrainIds"))
    missing = tmp_path / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelTrainIds.png"
    missing.unlink()
    benchmark = load_benchmark(tmp_path)
    assert benchmark.files["train"][0][1].name.endswith("_labelIds.png")
    np.testing.assert_array_equal(ids_of(benchmark, "val", 1), CITYSCAPES)
    missing.with_name("ulm_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(InputError, match=r"image without label: .*ulm_000001_000019.* has no"):
        load_benchmark(tmp_path)


def test_a_test_split_without_labels_is_left_out(tmp_path):
    write_cityscapes(tmp_path)
    write_cityscapes(tmp_path, kinds=(), splits=("test",))
    assert list(load_benchmark("cityscapes", root=tmp_path)) == ["train", "val"]


def test_images_without_any_labels_are_refused(tmp_path):
    write_ade20k(tmp_path)
    (tmp_path / "annotations/training/ADE_train_00000001.png").unlink()
    (tmp_path / "annotations/training").rmdir()
    with pytest.raises(InputError, match=r"image without label: .*ADE_train_00000001\.jpg"):
        load_benchmark("ade20k", root=tmp_path)


def test_an_unknown_raw_id_names_file_and_pixel(tmp_path):
    write_coco(tmp_path)
    label = tmp_path / "stuffthingmaps/val2017/000000000009.png"
    write(label, [[0, 1, 2], [3, 11, 5]])  # street sign, which no image shows
    benchmark = load_benchmark(tmp_path)
    with pytest.raises(InputError, match=r"id 11 in .*009\.png at pixel \(1, 1\)"):
        benchmark.info.label_rule(benchmark["val"][0]["label"], str(label))


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_root_is_told_what_was_expected_where(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(
        InputError, match=r"wrong layout: expected .*; found \['pictures'\]"
    ) as info:
        load_benchmark(name, root=tmp_path)
    assert str(tmp_path) in str(info.value)
    with pytest.raises(InputError, match="no such folder"):
        load_benchmark(name, root=tmp_path / "nowhere")


def test_empty_and_doubtful_trees_are_refused(tmp_path):
    (tmp_path / "images/training").mkdir(parents=True)
    (tmp_path / "annotations/training").mkdir(parents=True)
    with pytest.raises(InputError, match="empty benchmark"):
        load_benchmark("ade20k", root=tmp_path)
    write_ade20k(tmp_path)
    write_coco(tmp_path)
    with pytest.raises(InputError, match="looks like ade20k and coco_stuff_164k"):
        load_benchmark(tmp_path)
    assert load_benchmark("coco_stuff_164k", root=tmp_path).info.num_labels == 171


def test_two_images_of_one_name_are_refused(tmp_path):
    write_ade20k(tmp_path)
    write(tmp_path / "images/training/ADE_train_00000001.png", 50)
    with pytest.raises(InputError, match="two files with one name"):
        load_benchmark("ade20k", root=tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frames/one.png", r"train\.txt line 2, got 'frames/one\.png'"),
        ("../one.png masks/one.png", r"line 2 names '\.\./one\.png': expected a file inside"),
        ("/etc/hosts masks/one.png", r"line 2 names '/etc/hosts': expected a file inside"),
        ("frames/one.png masks/two.png", r"line 2 names 'masks/two\.png': no such file"),
    ],
)
def test_faults_of_lists_are_named(tmp_path, line, message):
    write_camvid_lists(tmp_path)
    with (tmp_path / "train.txt").open("r+") as file:
        file.write("frames/one.png masks/one.png\n" + line + "\n")
        file.truncate()
    with pytest.raises(InputError, match=message):
        load_benchmark("camvid", root=tmp_path)
