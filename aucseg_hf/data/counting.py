"""One pass over label images: pixels of each class, and which classes each image holds."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm
from transformers.utils import logging

from aucseg_hf.data.labels import VOID, LabelRule
from aucseg_hf.data.records import CorruptFileError, decode, undecoded

logger = logging.get_logger(__name__)

_READ_AHEAD = 256


class ClassCounts(NamedTuple):
    """What `count_classes` found.

    Attributes:
        pixel_counts: int64 [K], labelled pixels of each class.
        presence: bool [N, K], whether each image holds each class.
        num_images: Images whose label could be read, at most N.
    """

    pixel_counts: np.ndarray
    presence: np.ndarray
    num_images: int


def count_classes(
    records: Iterable[Mapping[str, Any]],
    rule: LabelRule,
    max_images: int | None = None,
    progress: bool = False,
    skip_corrupt: bool = False,
) -> ClassCounts:
    """Counts the classes of a data set or a stream; images are not decoded.

    Labels are decoded by one thread a core, a bounded number at a time.

    Args:
        records: Records with a "label".
        rule: Turns label images into class ids.
        max_images: Stop after so many records.
        progress: Show a progress bar.
        skip_corrupt: Let labels that do not decode count as empty, with a warning.

    Raises:
        InputError: If a label cannot be read or holds an id outside the range.
    """
    if hasattr(records, "select_columns"):
        records = undecoded(records.select_columns(["label"]))

    def count(numbered: tuple[int, Mapping[str, Any]]) -> np.ndarray | None:
        index, record = numbered
        try:
            label, name = decode(record["label"], f"label {index}")
        except CorruptFileError as error:
            if not skip_corrupt:
                raise
            logger.warning("skipped: %s", error)
            return None
        return np.bincount(rule(label, name).ravel(), minlength=VOID + 1)[: rule.num_labels]

    nothing = np.zeros(rule.num_labels, np.int64)
    pixel_counts, presence, num_images = nothing.copy(), [], 0
    total = len(records) if hasattr(records, "__len__") else max_images
    numbered = islice(enumerate(records), max_images)
    bar = tqdm(total=total, desc="counting classes", leave=False, disable=not progress)
    with ThreadPoolExecutor() as pool, bar:
        while chunk := list(islice(numbered, _READ_AHEAD)):
            for counted in pool.map(count, chunk):
                num_images += counted is not None
                counted = nothing if counted is None else counted
                pixel_counts += counted
                presence.append(counted > 0)
                bar.update()
    presence = np.array(presence, bool).reshape(-1, rule.num_labels)
    return ClassCounts(pixel_counts, presence, num_images)
