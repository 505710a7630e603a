"""The benchmarks of the field, one row each. To correct a fact, correct it here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aucseg_hf.data.info import BenchmarkInfo
from aucseg_hf.data.labels import VOID
from aucseg_hf.data.layouts import FolderLayout, Layout, ListLayout

_TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class HubSource:
    """Where a benchmark lies on the Hub.

    Attributes:
        repository: Id of the data set.
        image_column: Column of the images.
        label_column: Column of the label images.
        revision: Branch, tag or commit.
    """

    repository: str
    image_column: str
    label_column: str
    revision: str | None = None


@dataclass(frozen=True)
class BenchmarkRow:
    """One benchmark.

    Attributes:
        info: Its classes, the rule of its raw label images and its evaluation.
        layouts: The trees it is found in on disk; the first one that is complete is read.
        hub: Where it lies on the Hub, if it does.
    """

    info: BenchmarkInfo
    layouts: tuple[Layout, ...]
    hub: HubSource | None = None


def _row(
    name: str, layouts: tuple[Layout, ...], hub: HubSource | None = None, **facts: object
) -> BenchmarkRow:
    """A row whose names, colours and tail stand in tables/<name>.json, with their source."""
    table = json.loads((_TABLES / f"{name}.json").read_text(encoding="utf-8"))
    lists = {
        key: None if table[key] is None else tuple(map(_frozen, table[key]))
        for key in ("class_names", "palette", "tail_classes")
    }
    return BenchmarkRow(BenchmarkInfo(name, **lists, **facts), layouts, hub)


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _id_map(raw_ids: tuple[int, ...], void_ids: range = range(0)) -> Mapping[int, int]:
    """Maps `raw_ids` to their place, and all other `void_ids` to void."""
    return {**dict.fromkeys(void_ids, VOID), **{raw: i for i, raw in enumerate(raw_ids)}}


_PAIRS = FolderLayout(
    images="{split}/images",
    labels="{split}/labels",
    splits={"train": "train", "val": "val", "test": "test"},
    class_ids=True,
)

# Cityscapes: id -> trainId of cityscapesscripts/helpers/labels.py; ids 0..33 without one are void.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_TREE = {
    "images": "leftImg8bit/{split}",
    "image_suffix": "_leftImg8bit.png",
    "labels": "gtFine/{split}",
    "splits": {"train": "train", "val": "val", "test": "test"},
}

# COCO-Stuff: raw ids 0..181 but the eleven things of labels.txt that no image shows.
_COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_TREES = [
    {
        "images": "images/{split}",
        "labels": folder + "/{split}",
        "splits": {"train": "train2017", "val": "val2017"},
    }
    for folder in ("stuffthingmaps", "annotations")
]

ROWS = {
    row.info.name: row
    for row in (
        _row(
            "cityscapes",
            (
                FolderLayout(
                    **_CITYSCAPES_TREE, label_suffix="_gtFine_labelTrainIds.png", class_ids=True
                ),
                FolderLayout(**_CITYSCAPES_TREE, label_suffix="_gtFine_labelIds.png"),
            ),
            HubSource("Chris1/cityscapes", "image", "semantic_segmentation"),
            id_map=_id_map(_CITYSCAPES_IDS, range(34)),
            window=1024,
            stride=768,
        ),
        _row(
            "ade20k",
            (
                FolderLayout(
                    images="images/{split}",
                    labels="annotations/{split}",
                    splits={"train": "training", "val": "validation"},
                ),
            ),
            HubSource("zhoubolei/scene_parse_150", "image", "annotation", "refs/convert/parquet"),
            reduce_labels=True,
        ),
        _row(
            "coco_stuff_164k",
            (
                *(
                    FolderLayout(**tree, label_suffix="_labelTrainIds.png", class_ids=True)
                    for tree in _COCO_TREES
                ),
                *(FolderLayout(**tree) for tree in _COCO_TREES),
            ),
            HubSource("GATE-engine/COCOStuff164K", "image", "mask"),
            id_map=_id_map(tuple(raw for raw in range(182) if raw not in _COCO_GAPS)),
        ),
        _row(
            "camvid",
            (
                FolderLayout(
                    images="{split}",
                    labels="{split}annot",
                    splits={"train": "train", "val": "val", "test": "test"},
                ),
                ListLayout(prefix="/SegNet/CamVid/"),
                _PAIRS,
            ),
            ignore_index=11,
        ),
    )
}
"""Every row by its name."""
