"""Folders of shards: parquet files, or WebDataset tar files, with class names beside them."""

import tarfile
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet

from aucseg_hf.data.benchmarks import BenchmarkInfo
from aucseg_hf.data.class_files import read_class_names, read_palette
from aucseg_hf.data.labels import VOID
from aucseg_hf.errors import InputError

_KINDS = {".parquet": "parquet", ".tar": "webdataset"}


class Splits(NamedTuple):
    """The two splits of a data set, opened for training.

    Attributes:
        train: {"image", "label"} records, of shards a stream.
        num_train: Number of them.
        val: Validation records, of shards from a copy in the cache of `datasets`.
        info: Class names and colours.
    """

    train: datasets.Dataset | datasets.IterableDataset
    num_train: int
    val: datasets.Dataset
    info: BenchmarkInfo


def load_shards(
    path: str | Path,
    id2label: str | Path | None = None,
    palette: str | Path | None = None,
    ignore_index: int = VOID,
) -> Splits:
    """Opens DIR/{train,val}-*.{parquet,tar} and DIR/id2label.json.

    Parquet files have an image and a label column, as `datasets.Dataset.to_parquet` writes them.
    In tar files image and label of one record share their name up to the first dot: `001.jpg` and
    `001.png`, or `001.image.png` and `001.label.png`.

    Args:
        path: The folder.
        id2label: Class names, as `read_class_names` takes them; by default `id2label.json` in the
            folder.
        palette: Colours, as `read_palette` takes them.
        ignore_index: Raw id of pixels without a class.

    Raises:
        InputError: If the folder, shards of a split or class names are missing, or the columns are
            others.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    class_names = read_class_names(id2label or folder / "id2label.json")
    info = BenchmarkInfo(
        name=folder.resolve().name,
        class_names=class_names,
        palette=read_palette(palette, len(class_names)) if palette is not None else None,
        ignore_index=ignore_index,
    )
    train_files, val_files = _find(folder, "train"), _find(folder, "val")
    return Splits(
        _open(train_files, streaming=True),
        sum(_count(file) for file in train_files),
        _open(val_files, streaming=False),
        info,
    )


def _find(folder: Path, split: str) -> list[Path]:
    found = sorted(file for file in folder.glob(f"{split}-*") if file.suffix in _KINDS)
    if not found or len({file.suffix for file in found}) > 1:
        raise InputError(
            f"expected shards {folder}/{split}-*.parquet or {split}-*.tar, "
            f"found {[file.name for file in found]}"
        )
    return found


def _open(files: list[Path], streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    try:
        records = datasets.load_dataset(
            _KINDS[files[0].suffix],
            data_files=[str(file) for file in files],
            split="train",
            streaming=streaming,
        )
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid, tarfile.TarError) as error:
        raise InputError(f"cannot read {files[0]} and its like: {error}") from error
    names = {_role(column): column for column in records.features or {}}
    if not {"image", "label"} <= set(names):
        raise InputError(
            f"expected an image and a label column in {files[0]}, got {list(records.features)}"
        )
    pair = {names[role]: role for role in ("image", "label")}
    for column in pair:
        # Renamed as images, a stream's columns would be decoded and compressed anew.
        records = records.cast_column(column, datasets.Image(decode=False))
    records = records.select_columns(list(pair))
    for column, role in pair.items():
        if column != role:
            records = records.rename_column(column, role)
    for column in pair.values():
        records = records.cast_column(column, datasets.Image())
    return records


def _role(column: str) -> str:
    """Which of a pair a column is, image or label; WebDataset calls columns by file suffix."""
    if column in ("jpg", "jpeg"):
        return "image"
    return "label" if column == "png" else column.split(".")[0]


def _count(file: Path) -> int:
    try:
        if file.suffix == ".parquet":
            return pyarrow.parquet.read_metadata(file).num_rows
        with tarfile.open(file) as tar:
            names = (Path(member.name) for member in tar if member.isfile())
            return len({str(name.parent / name.name.split(".")[0]) for name in names})
    except (pa.ArrowInvalid, tarfile.TarError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
