"""Image folders with a table of their pairs: metadata.jsonl or metadata.csv."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from aucseg_hf.data.folder import Pairs, name_splits, path_inside
from aucseg_hf.errors import InputError

_FILES = ("metadata.jsonl", "metadata.csv")
_IMAGE_COLUMNS = ("image_file_name", "file_name")
_LABEL_COLUMN = "label_file_name"


def find_tables(folder: Path) -> dict[str, Path]:
    """Finds the tables of a folder.

    Returns:
        Split name -> table in the sub-folder of that name, or {"train": table} where the folder
        itself has one; empty where there is none.

    Raises:
        InputError: If a folder has two tables.
    """
    if (table := _table_of(folder)) is not None:
        return {"train": table}
    tables = {
        child.name: table
        for child in sorted(folder.iterdir())
        if child.is_dir() and (table := _table_of(child)) is not None
    }
    return {split: tables[name] for split, name in name_splits(tables).items()}


def _table_of(folder: Path) -> Path | None:
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(f"expected one of {' and '.join(_FILES)} in {folder}, found both")
    return found[0] if found else None


def read_table(table: Path) -> Pairs:
    """Reads the pairs of a table.

    Args:
        table: One pair a row, in the columns image_file_name (or file_name) and label_file_name,
            with paths that start at the table's folder.

    Returns:
        (image, label) paths in the order of the rows.

    Raises:
        InputError: If the table is empty, cannot be read or lacks a column, or a row names an image
            again, a missing file or a file outside the folder.
    """
    pairs: Pairs = []
    line_of: dict[Path, int] = {}
    for line, row in _rows(table):
        source = f"{table} line {line}"
        image, label = (
            path_inside(table.parent, _value(row, columns, source), source)
            for columns in (_IMAGE_COLUMNS, (_LABEL_COLUMN,))
        )
        if image in line_of:
            raise InputError(f"{source} names {image} again, after line {line_of[image]}")
        line_of[image] = line
        pairs.append((image, label))
    if not pairs:
        raise InputError(f"empty split: no rows in {table}")
    return pairs


def _rows(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            if table.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, row
            else:
                for line, text in enumerate(file, 1):
                    if text.strip():
                        yield line, json.loads(text)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {table}: {error}") from error


def _value(row: Mapping[str, object], columns: tuple[str, ...], source: str) -> str:
    for column in columns:
        value = row.get(column) if isinstance(row, Mapping) else None
        if isinstance(value, str) and value:
            return value
    found = list(row) if isinstance(row, Mapping) else row
    raise InputError(f"expected a column {' or '.join(columns)} in {source}, got {found}")
