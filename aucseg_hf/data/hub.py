"""Data sets on the Hub and in parquet files, with their columns renamed to image and label."""

import re
from pathlib import Path

from datasets import (
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
)
from datasets.exceptions import DatasetsError

from aucseg_hf.data.folder import name_splits, split_name
from aucseg_hf.errors import InputError

Records = Dataset | IterableDataset


def find_parquet(path: Path) -> dict[str, list[str]]:
    """Finds parquet files and the splits they belong to.

    Args:
        path: A file, or a folder with files in it or in its sub-folders.

    Returns:
        Split name -> files; the split is the first word for one in a file's name or its folder's,
        as in train-00000-of-00002.parquet or val/part.parquet, and train where there is none.
    """
    if path.is_file():
        files = [path] if path.suffix == ".parquet" else []
    else:
        files = sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")])
    splits: dict[str, list[str]] = {}
    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        words = (split_name(word) for word in re.split(r"[^a-z]+", name.lower()))
        split = next((word for word in words if word in ("train", "val", "test")), "train")
        splits.setdefault(split, []).append(str(file))
    return splits


def load_columns(
    source: str | Path,
    image_column: str = "image",
    label_column: str = "label",
    revision: str | None = None,
    streaming: bool = False,
) -> dict[str, Records]:
    """Loads a data set with images and label images in two of its columns.

    Args:
        source: Hub id, or parquet file or folder of them (`find_parquet`).
        image_column: Column of the images.
        label_column: Column of the label images.
        revision: Branch, tag or commit on the Hub.
        streaming: Read records when they are asked for, without a download of the whole.

    Returns:
        Split name -> records of {"image", "label"}.

    Raises:
        InputError: If the data set cannot be loaded or lacks a column.
    """
    options = {"revision": revision, "streaming": streaming}
    try:
        if Path(source).exists():
            # Named one by one: beside them lie id2label.json and the like, which are no data.
            files = find_parquet(Path(source))
            splits = load_dataset("parquet", data_files=files, **options)
        else:
            splits = load_dataset(str(source), **options)
    except (OSError, ValueError, DatasetsError) as error:
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"cannot load {source}{at} as a parquet file, a folder or a hub data set: {error}"
        ) from error
    return {
        split: _two_columns(splits, name, image_column, label_column, source)
        for split, name in name_splits(splits).items()
    }


def _two_columns(
    splits: DatasetDict | IterableDatasetDict,
    split: str,
    image_column: str,
    label_column: str,
    source: str | Path,
) -> Records:
    records = splits[split]
    columns = {image_column: "image", label_column: "label"}
    found = records.column_names
    missing = [column for column in columns if column not in found]
    if missing or len(columns) < 2:
        raise InputError(
            f"expected columns {image_column!r} and {label_column!r} in split {split} of {source}, "
            f"got {found}: name them with the image_column and label_column options"
        )
    records = records.select_columns(list(columns))
    # A stream renames one example after the other: undecoded, so that no image is encoded again,
    # and by way of names that no column has.
    for column in columns:
        records = records.cast_column(column, Image(decode=False))
    records = records.rename_columns({old: f"new {new}" for old, new in columns.items()})
    records = records.rename_columns({f"new {new}": new for new in columns.values()})
    for column in columns.values():
        records = records.cast_column(column, Image())
    return records
