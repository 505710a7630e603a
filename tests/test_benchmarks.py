import csv
import json
import re

import numpy as np
import PIL.Image
import pytest
from conftest import ROOT
from datasets import Dataset, IterableDataset
from datasets.table import embed_table_storage

from aucseg_hf import InputError, load_benchmark
from aucseg_hf.data.benchmark_table import ROWS
from aucseg_hf.data.benchmarks import NAMES
from aucseg_hf.data.hub import find_parquet
from aucseg_hf.data.scenes import draw_scene

# A folder of pairs


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


def test_bytes_after_the_end_marker_are_no_fault(pairs):
    path = pairs / "train/images/001.jpg"
    path.write_bytes(path.read_bytes() + b"\0trailing")
    load_benchmark(pairs).check_files()


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


def test_splits_get_their_usual_names(pairs):
    (pairs / "val").rename(pairs / "validation")
    benchmark = load_benchmark(pairs)
    assert list(benchmark) == ["train", "val"]
    assert len(load_benchmark(pairs, split="validation")) == 3
    (pairs / "train").rename(pairs / "val")
    with pytest.raises(InputError, match="'val' and 'validation'"):
        load_benchmark(pairs)


def color_labels(pairs, void="void"):
    """Stores the labels of a folder as colours; returns the ids they had."""
    colors = {"0": [0, 0, 255], "1": [90, 90, 90], "2": [200, 0, 0], "3": [250, 240, 20]}
    (pairs / "palette.json").write_text(json.dumps({**colors, void: [0, 0, 0]}))
    table = np.zeros((256, 3), np.uint8)
    table[:4] = list(colors.values())
    ids = {}
    for path in pairs.glob("*/labels/*.png"):
        ids[path] = np.asarray(PIL.Image.open(path))
        PIL.Image.fromarray(table[ids[path]]).save(path)
    return ids


def test_labels_of_colors_are_read_with_the_palette(pairs):
    ids = color_labels(pairs)
    benchmark = load_benchmark(pairs)
    for split, files in benchmark.files.items():
        for record, (_, path) in zip(benchmark[split], files, strict=True):
            np.testing.assert_array_equal(benchmark.info.label_rule(record["label"]), ids[path])
    PIL.Image.new("RGB", (48, 40), (0, 0, 1)).save(pairs / "val/labels/000.png")
    with pytest.raises(InputError, match=r"colour \(0, 0, 1\) in x at pixel \(0, 0\) is not in"):
        benchmark.info.label_rule(benchmark["val"][0]["label"], "x")


@pytest.mark.parametrize(
    "palette",
    [{"0": [1, 2, 3]}, {"void": [1, 2, 3]}, [[1, 2, 3]] * 5, [[1, 2]] * 4, [[1, 2, 256]] * 4, "x"],
)
def test_wrong_palettes_are_refused(pairs, palette):
    (pairs / "palette.json").write_text(json.dumps(palette))
    with pytest.raises(InputError, match=r"expected 4 colours .* in .*palette\.json"):
        load_benchmark(pairs)


def test_reduced_labels_of_a_folder(pairs):
    benchmark = load_benchmark(pairs, id2label="road,car,sign", reduce_labels=True)
    ids = np.asarray(PIL.Image.open(pairs / "train/labels/000.png")).astype(int)
    expected = np.where((ids == 0) | (ids == 255), 255, ids - 1)
    rule = benchmark.info.label_rule
    np.testing.assert_array_equal(rule(benchmark["train"][0]["label"]), expected)


# Metadata tables


def write_table(folder, rows, kind="jsonl"):
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def rows_of(folder, image_column="image_file_name"):
    return [
        {image_column: f"images/{i:03}.jpg", "label_file_name": f"labels/{i:03}.png"}
        for i in (2, 0)
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("column", ["image_file_name", "file_name"])
def test_metadata_tables(pairs, kind, column):
    for split in ("train", "val"):
        write_table(pairs / split, rows_of(pairs / split, column), kind)
    benchmark = load_benchmark(pairs)
    assert {split: len(records) for split, records in benchmark.items()} == {"train": 2, "val": 2}
    for i, name in enumerate(("002", "000")):
        expected = np.asarray(PIL.Image.open(pairs / f"val/labels/{name}.png"))
        np.testing.assert_array_equal(np.asarray(benchmark["val"][i]["label"]), expected)
        assert benchmark.files["val"][i][0] == pairs / f"val/images/{name}.jpg"


def test_a_table_at_the_top_is_the_train_split(pairs):
    (pairs / "train/id2label.json").write_text('["a", "b", "c", "d"]')
    write_table(pairs / "train", rows_of(pairs))
    benchmark = load_benchmark(pairs / "train")
    assert list(benchmark) == ["train"]
    assert benchmark.info.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label_file_name": "labels/000.png"}, r"image_file_name or file_name in .*l line 1, got"),
        ({"file_name": "images/000.jpg"}, r"label_file_name in .*l line 1, got \['file_name'\]"),
        (["a", "b"], r"expected a column .*, got \['a', 'b'\]"),
        (
            {"file_name": "images/009.jpg", "label_file_name": "labels/000.png"},
            r"line 1 names 'images/009\.jpg': no such file",
        ),
        (
            {"file_name": "images/000.jpg", "label_file_name": "../val/labels/000.png"},
            r"line 1 names '\.\./val/labels/000\.png': expected a file inside",
        ),
        (
            {"file_name": "/etc/hosts", "label_file_name": "labels/000.png"},
            "line 1 names '/etc/hosts': expected a file inside",
        ),
    ],
)
def test_faults_of_tables_are_named(pairs, row, message):
    write_table(pairs / "train", [row])
    with pytest.raises(InputError, match=message):
        load_benchmark(pairs)


def test_more_faults_of_tables(pairs):
    rows = rows_of(pairs)
    path = write_table(pairs / "train", [*rows, rows[1]])
    with pytest.raises(InputError, match=r"line 3 names .*000\.jpg again, after line 2"):
        load_benchmark(pairs)
    path.write_text('{"file_name": ')
    with pytest.raises(InputError, match=r"cannot read .*metadata\.jsonl"):
        load_benchmark(pairs)
    path.write_text("\n")
    with pytest.raises(InputError, match="empty split"):
        load_benchmark(pairs)
    write_table(pairs / "train", rows, "csv")
    with pytest.raises(InputError, match="found both"):
        load_benchmark(pairs)


def test_links_and_absolute_names_inside_the_folder_are_fine(pairs, tmp_path):
    outside = tmp_path / "elsewhere.jpg"
    (pairs / "train/images/000.jpg").rename(outside)
    (pairs / "train/images/000.jpg").symlink_to(outside)
    name = str(pairs / "train/images/000.jpg")
    write_table(pairs / "train", [{"file_name": name, "label_file_name": "labels/000.png"}])
    write_table(pairs / "val", rows_of(pairs))
    assert load_benchmark(pairs)["train"][0]["image"].size == (48, 40)


# Columns: parquet files, and the Hub through the same loader


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_parquet(pairs, folder, columns=("image", "label"), splits=("train", "validation")):
    """Stores the folder of pairs with the bytes of its files, as the Hub keeps data sets."""
    folder.mkdir()
    for split, name in zip(("train", "val"), splits, strict=True):
        records = load_benchmark(pairs, split=split)
        records = records.rename_columns(dict(zip(("image", "label"), columns, strict=True)))
        records = records.add_column("number", list(range(len(records))))
        table = embed_table_storage(records.data.table)
        path = folder / f"{name}-00000-of-00001.parquet"
        Dataset(table).to_parquet(path)
    return folder


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("columns", [("image", "label"), ("photo", "image"), ("label", "image")])
def test_parquet_folders(pairs, tmp_path, columns, streaming):
    folder = write_parquet(pairs, tmp_path / "parquet", columns)
    benchmark = load_benchmark(
        folder,
        id2label=pairs / "id2label.json",
        image_column=columns[0],
        label_column=columns[1],
        streaming=streaming,
    )
    assert list(benchmark) == ["train", "val"]
    assert benchmark.info.class_names == ("sky", "road", "car", "sign")
    assert isinstance(benchmark["val"], IterableDataset) == streaming
    expected = load_benchmark(pairs, split="val")
    records = list(benchmark["val"])
    assert len(records) == 3
    for record, original in zip(records, expected, strict=True):
        assert record.keys() == {"image", "label"}
        assert record["image"].format == "JPEG"  # not encoded anew
        for key, value in record.items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(original[key]))


def test_parquet_of_raw_bytes_becomes_images(pairs, tmp_path):
    """Without the description that `datasets` adds, the columns are mere bytes."""
    paths = sorted((pairs / "val/labels").glob("*.png"))
    content = [path.read_bytes() for path in paths]
    Dataset.from_dict({"image": content, "label": content}).to_parquet(tmp_path / "data.parquet")
    (tmp_path / "id2label.json").write_text((pairs / "id2label.json").read_text())
    for source, streaming in ((tmp_path, False), (tmp_path / "data.parquet", True)):
        benchmark = load_benchmark(source, streaming=streaming)
        record = next(iter(benchmark["train"]))
        np.testing.assert_array_equal(
            benchmark.info.label_rule(record["label"]), np.asarray(PIL.Image.open(paths[0]))
        )


def test_parquet_files_tell_their_splits(tmp_path):
    names = {
        "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        "val": ["data/validation-00000-of-00001.parquet", "val/trained.parquet"],
        "test": ["test/val.parquet"],
    }
    for name in sum(names.values(), []):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "id2label.json").touch()
    found = find_parquet(tmp_path)
    assert found == {split: [str(tmp_path / name) for name in names[split]] for split in names}
    (tmp_path / "street.parquet").touch()
    assert find_parquet(tmp_path)["train"][-1] == str(tmp_path / "street.parquet")
    assert find_parquet(tmp_path / "test/val.parquet").keys() == {"val"}


def test_a_row_is_read_from_the_hub_with_its_columns(pairs, tmp_path, monkeypatch):
    """The table's entry goes to `load_dataset`; here a folder stands in for the Hub."""
    folder = write_parquet(pairs, tmp_path / "hub", ("image", "annotation"))
    asked = {}

    def load(source, revision=None, **options):
        from datasets import load_dataset

        asked.update(source=source, revision=revision)
        return load_dataset(str(folder), **options)

    monkeypatch.setattr("aucseg_hf.data.hub.load_dataset", load)
    benchmark = load_benchmark("ade20k")
    assert asked == {"source": "zhoubolei/scene_parse_150", "revision": "refs/convert/parquet"}
    ids = np.asarray(load_benchmark(pairs, split="val")[0]["label"]).astype(int)
    expected = np.where((ids == 0) | (ids == 255), 255, ids - 1)
    rule = benchmark.info.label_rule
    np.testing.assert_array_equal(rule(benchmark["val"][0]["label"]), expected)
    with pytest.raises(InputError, match=r"camvid is not on the Hub: give .* root"):
        load_benchmark("camvid")


def test_faults_of_columns_are_named(pairs, tmp_path):
    folder = write_parquet(pairs, tmp_path / "parquet")
    with pytest.raises(InputError, match=r"no class names of parquet: expected .*id2label\.json"):
        load_benchmark(folder)
    options = {"id2label": pairs / "id2label.json"}
    with pytest.raises(InputError, match=r"'image' and 'mask' .* got \['image', 'label', 'number'"):
        load_benchmark(folder, label_column="mask", **options)
    with pytest.raises(InputError, match="'image' and 'image'"):
        load_benchmark(folder, label_column="image", **options)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot load .*parquet"):
        load_benchmark(folder, **options)


def test_hub_ids_without_an_answer_are_named(pairs):
    with pytest.raises(InputError, match="no class names of someone/data: no such folder here"):
        load_benchmark("someone/data")
    with pytest.raises(InputError, match="cannot load someone/data at revision v2 as"):
        load_benchmark("someone/data", revision="v2", id2label="a,b")


# Names, options, streams


def test_unknown_names_get_a_hint():
    with pytest.raises(InputError, match=r"'cityscapes'\? expected one of scenes, cityscapes, ade"):
        load_benchmark("citiscapes")
    with pytest.raises(InputError, match=r"benchmark xyz: expected one of scenes"):
        load_benchmark("xyz")
    assert NAMES == ("scenes", "cityscapes", "ade20k", "coco_stuff_164k", "camvid")


def test_options_of_another_loader_are_refused(pairs):
    with pytest.raises(InputError, match=r"unknown option 'root' for scenes: .*'size'"):
        load_benchmark("scenes", root="x")
    with pytest.raises(InputError, match="unknown option 'size' for .*'id2label'"):
        load_benchmark(pairs, size=3)
    assert len(load_benchmark("scenes", num_val=2, root=None)["val"]) == 2


def test_streams_of_files_and_scenes_give_the_same_records(pairs):
    for source, options in ((pairs, {}), ("scenes", {"size": 48, "num_train": 3, "num_val": 2})):
        benchmark = load_benchmark(source, **options)
        stream = load_benchmark(source, streaming=True, **options)
        assert (stream.info, stream.files) == (benchmark.info, benchmark.files)
        for split, records in benchmark.items():
            for one, other in zip(records, stream[split], strict=True):
                for key in ("image", "label"):
                    np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]))


# The table


FACTS = {
    # classes, a few ids and their names, colours, raw ids -> class ids, tail
    "cityscapes": (
        19,
        {0: "road", 6: "traffic light", 12: "rider", 18: "bicycle"},
        {0: (128, 64, 128), 13: (0, 0, 142), 18: (119, 11, 32)},
        {0: 255, 6: 255, 7: 0, 8: 1, 9: 255, 11: 2, 17: 5, 24: 11, 30: 255, 31: 16, 33: 18},
        7,
    ),
    "ade20k": (
        150,
        {0: "wall", 7: "bed", 12: "person", 20: "car", 127: "bicycle", 149: "flag"},
        {0: (120, 120, 120), 2: (6, 230, 230), 12: (150, 5, 61), 149: (92, 0, 255)},
        {0: 255, 1: 0, 21: 20, 150: 149, 255: 255},
        124,
    ),
    "coco_stuff_164k": (
        171,
        {0: "person", 11: "stop sign", 79: "toothbrush", 80: "banner", 170: "wood"},
        None,
        {0: 0, 10: 10, 12: 11, 24: 23, 26: 24, 69: 61, 91: 80, 181: 170, 255: 255},
        123,
    ),
    "camvid": (
        11,
        {0: "sky", 4: "pavement", 10: "bicyclist"},
        {0: (128, 128, 128), 4: (60, 40, 222), 10: (0, 128, 192)},
        {0: 0, 10: 10, 11: 255},
        None,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_facts_of_the_table(name):
    info = ROWS[name].info
    num_labels, names, colors, raw, tail = FACTS[name]
    assert info.num_labels == num_labels == len(set(info.class_names))
    assert {i: info.class_names[i] for i in names} == names
    if colors is None:
        assert info.palette is None
    else:
        assert {i: info.palette[i] for i in colors} == colors
    mask = PIL.Image.fromarray(np.array([list(raw)], np.uint8))
    assert info.label_rule(mask).ravel().tolist() == list(raw.values())
    assert (None if info.tail_classes is None else len(info.tail_classes)) == tail


def test_ids_outside_the_raw_maps_are_refused():
    for name, raw in (("cityscapes", 34), ("ade20k", 151), ("coco_stuff_164k", 11), ("camvid", 12)):
        with pytest.raises(InputError, match=f"id {raw} in x"):
            ROWS[name].info.label_rule(PIL.Image.new("L", (2, 2), raw), "x")


def test_cityscapes_is_evaluated_with_a_sliding_window():
    windows = {name: (row.info.window, row.info.stride) for name, row in ROWS.items()}
    assert windows.pop("cityscapes") == (1024, 768)
    assert set(windows.values()) == {(None, None)}


def test_only_two_classes_of_ade20k_share_a_color():
    """Road and skyscraper, as published; the colours of Cityscapes and CamVid are distinct."""
    ade20k = ROWS["ade20k"].info
    same = [i for i, color in enumerate(ade20k.palette) if ade20k.palette.count(color) > 1]
    assert [ade20k.class_names[i] for i in same] == ["road", "skyscraper"]
    for name in ("cityscapes", "camvid"):
        palette = ROWS[name].info.palette
        assert len(set(palette)) == len(palette)


def test_snippets_of_the_data_page(tmp_path, monkeypatch, capsys):
    """Every snippet runs, in one session, and prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    session = {}
    for snippet in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(snippet, "docs/data.md", "exec"), session)
        printed = re.sub(r"[\s\[\]]+", " ", capsys.readouterr().out).strip()
        said = " ".join(re.findall(r"print\(.*\)  # (.*)", snippet))
        assert printed == re.sub(r"[\s\[\]]+", " ", said).strip()
    assert session["ids"].shape == (128, 128)
