"""WebDataset shards: tar files in which image and label of one record stand side by side."""

import re
import tarfile
from pathlib import Path

from datasets import Dataset, Image, IterableDataset, load_dataset
from datasets.exceptions import DatasetsError

from aucseg_hf.data.class_files import read_info
from aucseg_hf.data.folder import split_name
from aucseg_hf.data.info import Benchmark, StreamingBenchmark
from aucseg_hf.data.labels import VOID
from aucseg_hf.errors import InputError


def find_tars(folder: Path) -> dict[str, list[str]]:
    """Finds the tar files of each split, named as train-00000.tar; empty where there are none."""
    splits: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.tar")):
        split = split_name(re.split(r"[^a-z]", file.name.lower())[0])
        if split in ("train", "val", "test"):
            splits.setdefault(split, []).append(str(file))
    return splits


def load_tars(
    folder: Path,
    streaming: bool = False,
    *,
    id2label: str | Path | None = None,
    palette: str | Path | None = None,
    ignore_index: int = VOID,
    reduce_labels: bool = False,
) -> Benchmark | StreamingBenchmark:
    """A user's folder of tar files.

    Image and label of one record share their name up to the first dot: `001.jpg` and `001.png`, or
    `001.image.png` and `001.label.png`.

    Args:
        folder: The folder.
        streaming: Stream it.
        id2label: As `load_pairs`, which says the rest too.
        palette: See there.
        ignore_index: See there.
        reduce_labels: See there.

    Raises:
        InputError: If there are no class names, or a tar file cannot be read or holds other files.
    """
    name = folder.resolve().name
    info = read_info(name, folder, id2label, palette, ignore_index, reduce_labels)
    try:
        splits = load_dataset("webdataset", data_files=find_tars(folder), streaming=streaming)
    except (OSError, ValueError, tarfile.TarError, DatasetsError) as error:
        raise InputError(f"cannot read the tar files in {folder}: {error}") from error
    pairs = {split: _pair(records, folder) for split, records in splits.items()}
    return (StreamingBenchmark if streaming else Benchmark)(pairs, info, {})


def _pair(records: Dataset | IterableDataset, folder: Path) -> Dataset | IterableDataset:
    role_of = {column: _role(column) for column in records.column_names}
    columns = {column: role for column, role in role_of.items() if role is not None}
    if sorted(columns.values()) != ["image", "label"]:
        raise InputError(
            "expected NAME.jpg and NAME.png, or NAME.image.* and NAME.label.*, in the tar files in "
            f"{folder}, got suffixes {[c for c in role_of if not c.startswith('__')]}"
        )
    records = records.select_columns(list(columns))
    for column in columns:
        # Renamed as images, a stream's columns would be decoded and compressed anew.
        records = records.cast_column(column, Image(decode=False))
    records = records.rename_columns(columns)
    for column in columns.values():
        records = records.cast_column(column, Image())
    return records


def _role(column: str) -> str | None:
    """Which of a pair a column is; WebDataset calls columns by all that follows the first dot."""
    if column in ("jpg", "jpeg"):
        return "image"
    if column == "png":
        return "label"
    first = column.split(".")[0]
    return first if first in ("image", "label") else None
