"""Whether label files are still those that were counted."""

import hashlib
import json
import os
from pathlib import Path

import datasets

from aucseg_hf.data.labels import LabelRule


def fingerprint(records: datasets.Dataset, rule: LabelRule) -> str:
    """Hashes what decides the class counts of a data set, without reading label files.

    Args:
        records: Records with a "label".
        rule: Turns label images into class ids.

    Returns:
        32 hexadecimal digits, over the rule and of every label its path, size and time of change,
        or its bytes where it is no file.
    """
    labels = records.select_columns(["label"]).with_format("arrow")
    digest = hashlib.blake2b(repr((rule, records.features["label"])).encode(), digest_size=16)
    for batch in labels.iter(batch_size=1000):
        for value in batch.column("label").to_pylist():
            digest.update(_identity(value))
    return digest.hexdigest()


def _identity(value: object) -> bytes:
    if not isinstance(value, dict):
        return repr(value).encode()
    if value["bytes"] is not None:
        return value["bytes"]
    try:
        status = os.stat(value["path"])
    except OSError:  # the count itself says what is wrong with it
        return value["path"].encode()
    return f"{value['path']} {status.st_size} {status.st_mtime_ns}".encode()


def saved_fingerprint(file: Path) -> str | None:
    """The fingerprint in a file of statistics; None where there is no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return None
