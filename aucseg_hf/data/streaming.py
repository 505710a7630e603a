"""SegmentationStream: training from shards that are read once, front to back, in bounded memory."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from transformers import BaseImageProcessor
from transformers.utils import logging

from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.examples import ExampleMaker
from aucseg_hf.data.labels import LabelRule
from aucseg_hf.data.records import CorruptFileError, undecoded
from aucseg_hf.errors import InputError

logger = logging.get_logger(__name__)

Item = TypeVar("Item")
# A record with its position in the stream.
Numbered = tuple[int, Mapping[str, Any]]

_READ_AT_ONCE = 16


class SegmentationStream(torch.utils.data.IterableDataset):
    """The examples of `SegmentationDataset`, from records that come one after the other.

    Record i of the stream gets the augmentation of record i of a `SegmentationDataset` with the
    same seed and epoch. The order depends on seed and epoch alone, not on the number of worker
    processes: batch k is worker k mod W's. Several training processes need accelerate's
    `IterableDatasetShard`, that is `dispatch_batches=False`, as `AUCSegTrainer` sets it; they get
    equally many batches, the last of which is filled up with the first records of the epoch, as
    Trainer does for a `SegmentationDataset`.

    Every worker of every process reads all records and decodes only those of its own batches:
    exact whatever the shards' sizes, and made for shards on a disk, which are read far faster than
    images are decoded. Memory is bounded by `shuffle_buffer` undecoded records a worker. Shards
    themselves are not shuffled: records sorted by class or place are to be shuffled once, when the
    shards are written.

    Args:
        records: {"image", "label"} records in a fixed order.
        length: Number of records; an epoch has a length for Trainer to count and to resume by.
        label_rule: Turns label images into class ids with 255 for void.
        image_processor: Normalises the images, as in `SegmentationDataset`.
        augmentation: Applied to training pairs; None keeps the native size.
        seed: Together with epoch and index it decides every random choice.
        batch_size: Batch size of one process, that of the DataLoader.
        num_processes: Number of training processes.
        shuffle_buffer: Records among which the next is drawn; 0 keeps the stream's order.
        split: Names records without a file: the eighteenth of "train" is "train 17".
        skip_corrupt: Replace a record that does not decode by the next in its batch that does, or
            one of the batch before, with a warning, instead of raising.

    Attributes:
        image_mean: Mean of each channel that normalisation subtracts, of images in 0..1.
        image_std: Standard deviation it divides by.

    Raises:
        InputError: If a size is out of range.
    """

    def __init__(
        self,
        records: datasets.IterableDataset,
        length: int,
        label_rule: LabelRule,
        image_processor: BaseImageProcessor,
        augmentation: TrainAugmentation | None = None,
        seed: int = 0,
        batch_size: int = 1,
        num_processes: int = 1,
        shuffle_buffer: int = 1000,
        split: str = "image",
        skip_corrupt: bool = False,
    ) -> None:
        for name, value, least in (
            ("length", length, 1),
            ("batch_size", batch_size, 1),
            ("num_processes", num_processes, 1),
            ("shuffle_buffer", shuffle_buffer, 0),
        ):
            if value < least:
                raise InputError(f"expected {name} >= {least}, got {value}")
        self._records = undecoded(records)
        self._length = length
        self._maker = ExampleMaker(label_rule, image_processor, augmentation, seed)
        self.image_mean, self.image_std = self._maker.image_mean, self._maker.image_std
        self._batch_size = batch_size
        self._num_processes = num_processes
        self._shuffle_buffer = shuffle_buffer
        self.split = split
        self.skip_corrupt = skip_corrupt
        # Shared with worker processes, as in SegmentationDataset.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._corrupt = torch.zeros(length, dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return self._length

    @property
    def num_corrupt(self) -> int:
        """Records found so far, by any worker of this process, that do not decode."""
        return int(self._corrupt.sum())

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which changes order and augmentation."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator["StreamExample"]:
        """Yields the examples of this worker's batches.

        Raises:
            InputError: If the stream does not hold `length` records, or, when an example is looked
                at, as `SegmentationDataset`.
        """
        epoch = int(self._epoch)
        worker = torch.utils.data.get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        before: list[Numbered] = []
        for k, batch in enumerate(self._global_batches(epoch)):
            if k % count == number:
                for i in range(len(batch)):
                    yield StreamExample(self, epoch, batch[i:] + batch[:i] + before)
            before = batch

    def _global_batches(self, epoch: int) -> Iterator[list[Numbered]]:
        """The records of all processes' next batches together."""
        size = self._batch_size * self._num_processes
        generator = np.random.default_rng([self._maker.seed, epoch])
        first, batch = [], []
        for item in shuffled(self._numbered(), self._shuffle_buffer, generator):
            batch.append(item)
            if len(batch) == size:
                first = first or batch
                yield batch
                batch = []
        if batch and self._num_processes > 1:
            # Every process needs a full share: the epoch begins again, as often as it takes.
            filler = first or batch.copy()
            while len(batch) < size:
                batch += filler[: size - len(batch)]
        if batch:
            yield batch

    def _numbered(self) -> Iterator[Numbered]:
        index = -1
        # `iter` of the records themselves would deal shards to worker processes.
        for columns in self._records.iter(_READ_AT_ONCE):
            for image, label in zip(columns["image"], columns["label"], strict=True):
                index += 1
                if index == self._length:
                    raise InputError(f"expected {self._length} records in the stream, found more")
                yield index, {"image": image, "label": label}
        if index + 1 < self._length:
            raise InputError(f"expected {self._length} records in the stream, found {index + 1}")

    def make(self, epoch: int, candidates: list[Numbered]) -> dict[str, Any]:
        """Decodes the first of the candidates, or with `skip_corrupt` the first that decodes."""
        for index, record in candidates:
            try:
                image, label, name = self._maker.pair(record, index, self.split)
            except CorruptFileError as error:
                if not self.skip_corrupt:
                    raise
                if not self._corrupt[index]:
                    self._corrupt[index] = True
                    logger.warning("skipped: %s", error)
            else:
                return self._maker.example(image, label, name, epoch, candidates[0][0])
        raise CorruptFileError(f"none of {len(candidates)} neighbouring records can be read")


class StreamExample(Mapping):
    """What `SegmentationDataset` gives, decoded when it is first looked at.

    accelerate hands each process all examples and drops those of the others, which then cost no
    decoding.
    """

    def __init__(self, stream: SegmentationStream, epoch: int, candidates: list[Numbered]) -> None:
        self._stream = stream
        self._epoch = epoch
        self._candidates = candidates

    @cached_property
    def _content(self) -> dict[str, Any]:
        return self._stream.make(self._epoch, self._candidates)

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def shuffled(
    items: Iterable[Item], buffer_size: int, generator: np.random.Generator
) -> Iterator[Item]:
    """Yields the items, each drawn from a buffer of the next `buffer_size` of them."""
    buffer: list[Item] = []
    for item in items:
        if len(buffer) < buffer_size:
            buffer.append(item)
            continue
        if buffer:
            drawn = int(generator.integers(len(buffer)))
            buffer[drawn], item = item, buffer[drawn]
        yield item
    generator.shuffle(buffer)
    yield from buffer
