"""load_benchmark: a benchmark by its name, or anybody's own data, with its classes."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset

from aucseg_hf.data.benchmark_table import ROWS, BenchmarkRow
from aucseg_hf.data.class_files import read_info
from aucseg_hf.data.folder import Pairs, find_splits, split_name
from aucseg_hf.data.hub import Records, find_parquet, load_columns
from aucseg_hf.data.info import Benchmark, BenchmarkInfo, StreamingBenchmark
from aucseg_hf.data.labels import VOID
from aucseg_hf.data.layouts import find_files
from aucseg_hf.data.metadata import find_tables, read_table
from aucseg_hf.data.scene_records import load_scenes
from aucseg_hf.data.webdataset import find_tars, load_tars
from aucseg_hf.errors import InputError, did_you_mean

NAMES = ("scenes", *ROWS)
"""The benchmarks that `load_benchmark` knows by name."""


def load_benchmark(
    name_or_path: str | Path, split: str | None = None, streaming: bool = False, **options: Any
) -> Benchmark | StreamingBenchmark | Dataset | IterableDataset:
    """Loads a benchmark by name, or any data set of images and label images.

    Args:
        name_or_path: One of `NAMES`; a folder of pairs, of metadata tables, of parquet files or of
            tar files; the root of an official tree; or a hub id. A name goes before a folder that
            has it.
        split: Return only this split.
        streaming: Records come one after the other, from the Hub without a download of the whole.
        **options: Those of `load_scenes`, `load_row`, `load_pairs`, `load_table` or `load_tars`,
            whichever reads the data. None stands for the default.

    Returns:
        A `datasets.DatasetDict` of {"image", "label"} records, with splits called train, val and
        test, whose `info` holds class names, the rule of the label images and colours.

    Raises:
        InputError: If there is no such benchmark, folder, split or option, or a file cannot be
            used.

    Example:
        >>> benchmark = load_benchmark("scenes", size=64)
        >>> benchmark["train"][0]["image"].size
        (64, 64)
    """
    loader = _choose_loader(name_or_path, streaming)
    options = {name: value for name, value in options.items() if value is not None}
    _check_options(loader, options, name_or_path)
    benchmark = loader(**options)
    if streaming and isinstance(benchmark, Benchmark):
        benchmark = benchmark.stream()
    if split is None:
        return benchmark
    if split_name(split) not in benchmark:
        raise InputError(f"no split {split!r} in {name_or_path}: expected one of {list(benchmark)}")
    return benchmark[split_name(split)]


def load_row(
    row: BenchmarkRow, streaming: bool = False, *, root: str | Path | None = None
) -> Benchmark | StreamingBenchmark:
    """A benchmark of the table.

    Args:
        row: Its row.
        streaming: Stream it from the Hub.
        root: Its folder on disk, as its authors hand it out; by default it is read from the Hub.

    Raises:
        InputError: If the tree is incomplete, or the Hub does not have it.
    """
    if root is not None:
        layout, files = find_files(row.layouts, Path(root))
        info = row.info
        if layout.class_ids:
            info = replace(info, ignore_index=VOID, id_map=None, reduce_labels=False)
        return _from_files(files, info)
    if row.hub is None:
        raise InputError(f"{row.info.name} is not on the Hub: give its folder with the root option")
    splits = load_columns(
        row.hub.repository,
        row.hub.image_column,
        row.hub.label_column,
        row.hub.revision,
        streaming,
    )
    return _from_records(splits, row.info)


def load_pairs(
    folder: Path,
    files: dict[str, Pairs],
    *,
    id2label: str | Path | None = None,
    palette: str | Path | None = None,
    ignore_index: int = VOID,
    reduce_labels: bool = False,
) -> Benchmark:
    """A user's folder of image and label files.

    Args:
        folder: The folder.
        files: Its (image, label) paths by split.
        id2label: Class names, as `read_class_names` takes them; by default `id2label.json` in the
            folder.
        palette: Colours, as `read_palette` takes them; by default `palette.json` in the folder, if
            any.
        ignore_index: Raw id of pixels without a class.
        reduce_labels: Raw id 0 is void and 1..K are the classes.

    Raises:
        InputError: If one of the files beside the data cannot be used.
    """
    name = folder.resolve().name
    return _from_files(
        files, read_info(name, folder, id2label, palette, ignore_index, reduce_labels)
    )


def load_table(
    source: str | Path,
    streaming: bool = False,
    *,
    image_column: str = "image",
    label_column: str = "label",
    revision: str | None = None,
    id2label: str | Path | None = None,
    palette: str | Path | None = None,
    ignore_index: int = VOID,
    reduce_labels: bool = False,
) -> Benchmark | StreamingBenchmark:
    """A user's data set on the Hub or in parquet files.

    Args:
        source: Hub id, or parquet file or folder of them (`find_parquet`).
        streaming: Stream it.
        image_column: Column of the images.
        label_column: Column of the label images.
        revision: Branch, tag or commit on the Hub.
        id2label: As `load_pairs`, which says the rest too.
        palette: See there.
        ignore_index: See there.
        reduce_labels: See there.

    Raises:
        InputError: If the data set cannot be loaded, lacks a column or has no class names.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    name = path.stem if folder else str(source)
    info = read_info(name, folder, id2label, palette, ignore_index, reduce_labels)
    return _from_records(
        load_columns(source, image_column, label_column, revision, streaming), info
    )


def _choose_loader(name_or_path: str | Path, streaming: bool) -> Callable[..., Any]:
    name, path = str(name_or_path), Path(name_or_path)
    if name == "scenes":
        return load_scenes
    if name in ROWS:
        return partial(load_row, ROWS[name], streaming)
    if path.is_dir():
        return _choose_folder_loader(path, streaming)
    if path.is_file() and find_parquet(path):
        return partial(load_table, path, streaming)
    if isinstance(name_or_path, str) and re.fullmatch(r"[\w.-]*\w/[\w.-]*\w", name):
        return partial(load_table, name, streaming)
    hint = did_you_mean(name, NAMES) or ":"
    raise InputError(
        f"no such folder or benchmark {name}{hint} expected one of {', '.join(NAMES)}, a folder, "
        "a parquet file or a hub id OWNER/NAME"
    )


def _choose_folder_loader(folder: Path, streaming: bool) -> Callable[..., Any]:
    tables = find_tables(folder)
    if tables:
        files = {split: read_table(table) for split, table in tables.items()}
        return partial(load_pairs, folder, files)
    files = find_splits(folder)
    if files:
        return partial(load_pairs, folder, files)
    if find_parquet(folder):
        return partial(load_table, folder, streaming)
    if find_tars(folder):
        return partial(load_tars, folder, streaming)
    rows = [row for row in ROWS.values() if any(one.recognises(folder) for one in row.layouts)]
    if len(rows) == 1:
        return partial(load_row, rows[0], streaming, root=folder)
    if rows:
        names = " and ".join(row.info.name for row in rows)
        raise InputError(
            f"{folder} looks like {names}: say which with load_benchmark(NAME, root={folder})"
        )
    raise InputError(
        f"expected {folder}/{{train,val}}/{{images,labels}}, metadata.jsonl or metadata.csv in it "
        f"or in {folder}/{{train,val}}, parquet or tar files, or the official tree of one of "
        f"{', '.join(ROWS)}: found no such folder in {folder}"
    )


def _check_options(
    loader: Callable[..., Any], options: dict[str, Any], name_or_path: str | Path
) -> None:
    parameters = inspect.signature(loader).parameters.values()
    accepted = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in accepted:
            raise InputError(
                f"unknown option {name!r} for {name_or_path}: expected one of {accepted}"
            )


def _from_files(files: dict[str, Pairs], info: BenchmarkInfo) -> Benchmark:
    features = Features({"image": Image(), "label": Image()})
    splits = {
        split: Dataset.from_dict(
            {
                "image": [str(image) for image, _ in pairs],
                "label": [str(label) for _, label in pairs],
            },
            features=features,
        )
        for split, pairs in files.items()
    }
    return Benchmark(splits, info, files)


def _from_records(
    splits: dict[str, Records], info: BenchmarkInfo
) -> Benchmark | StreamingBenchmark:
    streamed = any(isinstance(records, IterableDataset) for records in splits.values())
    return (StreamingBenchmark if streamed else Benchmark)(splits, info, {})
