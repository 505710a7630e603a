"""BenchmarkInfo: what a data set says about its classes; Benchmark: its records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import DatasetDict, IterableDatasetDict

from aucseg_hf.data.folder import Pairs, check_pairs
from aucseg_hf.data.labels import VOID, Color, LabelRule, Palette
from aucseg_hf.errors import InputError


@dataclass(frozen=True)
class BenchmarkInfo:
    """What a data set says about its classes and how it is evaluated.

    Attributes:
        name: Name of the benchmark, or of the folder.
        class_names: Names in the order of their ids.
        palette: One display colour a class, or None for the default colours. Label images of
            colours are read with it.
        ignore_index: Raw id of pixels without a class.
        id_map: Class id, or 255 for void, of every raw id, where raw ids are no class ids.
        reduce_labels: Raw id 0 is void and 1..K are the classes.
        void_color: Colour of pixels without a class in label images of colours.
        tail_classes: Ids of the published tail, or None where none is published.
        window: Side of the sliding window of the published evaluation, in pixels; None for whole
            images.
        stride: Its stride, in pixels.
    """

    name: str
    class_names: tuple[str, ...]
    palette: Palette | None = None
    ignore_index: int = VOID
    id_map: Mapping[int, int] | None = None
    reduce_labels: bool = False
    void_color: Color | None = None
    tail_classes: tuple[int, ...] | None = None
    window: int | None = None
    stride: int | None = None

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by id, as transformers configurations hold them."""
        return dict(enumerate(self.class_names))

    @property
    def label_rule(self) -> LabelRule:
        """How raw label images of this data set become class ids."""
        return LabelRule(
            self.num_labels,
            self.ignore_index,
            self.id_map,
            self.reduce_labels,
            self.palette,
            self.void_color,
        )

    def class_id(self, name_or_id: str | int) -> int:
        """Resolves a class given by name or id.

        Raises:
            InputError: If there is no such class.
        """
        if str(name_or_id) in self.class_names:
            return self.class_names.index(str(name_or_id))
        if str(name_or_id).isdecimal() and int(name_or_id) < self.num_labels:
            return int(name_or_id)
        raise InputError(
            f"no class {name_or_id!r} in {self.name}: expected an id in 0..{self.num_labels - 1} "
            f"or one of {list(self.class_names)}"
        )


class _Described(dict):
    """Splits that know their classes."""

    def __init__(
        self, splits: Mapping[str, Any], info: BenchmarkInfo, files: Mapping[str, Pairs]
    ) -> None:
        super().__init__(splits)
        self.info = info
        self.files = dict(files)

    def check_files(self) -> None:
        """Checks every file on disk (`folder.check_pairs`).

        Raises:
            InputError: If a file is unreadable or truncated, or an image and its label differ in
                size.
        """
        for split, pairs in self.files.items():
            check_pairs(pairs, f"checking {split} files")


class Benchmark(_Described, DatasetDict):
    """A `DatasetDict` of {"image", "label"} records that knows its classes.

    Attributes:
        info: Class names, ignore index and colours.
        files: The (image, label) paths of each split; empty when nothing lies on disk.
    """

    def stream(self) -> "StreamingBenchmark":
        """The same records, to be read one after the other."""
        splits = {split: records.to_iterable_dataset() for split, records in self.items()}
        return StreamingBenchmark(splits, self.info, self.files)


class StreamingBenchmark(_Described, IterableDatasetDict):
    """An `IterableDatasetDict` of {"image", "label"} records that knows its classes.

    Attributes:
        info: Class names, ignore index and colours.
        files: The (image, label) paths of each split; empty when nothing lies on disk.
    """
