"""SegmentationDataset: {"image", "label"} records as normalised tensors, repeatably augmented."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BaseImageProcessor
from transformers.utils import logging

from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.examples import ExampleMaker
from aucseg_hf.data.labels import LabelRule
from aucseg_hf.data.records import CorruptFileError, undecoded

logger = logging.get_logger(__name__)


class SegmentationDataset(torch.utils.data.Dataset):
    """Tensors for training or evaluation from any sequence of {"image", "label"} records.

    Args:
        records: For example a split of `load_benchmark`; images of any mode, labels of class ids.
        label_rule: Turns label images into class ids with 255 for void.
        image_processor: Its `image_mean`, `image_std` and `rescale_factor` normalise the images,
            unless its `do_normalize` is off; MobileViT's also puts the channels in reverse order.
        augmentation: Applied to training pairs; None keeps the native size.
        seed: Together with epoch and index it decides every random choice.
        split: Names the records that are no file: the eighteenth of "train" is "train 17".
        skip_corrupt: Replace a record whose files do not decode by the next one that does, with a
            warning, instead of raising.

    Attributes:
        image_mean: Mean of each channel that normalisation subtracts, of images in 0..1.
        image_std: Standard deviation it divides by.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        label_rule: LabelRule,
        image_processor: BaseImageProcessor,
        augmentation: TrainAugmentation | None = None,
        seed: int = 0,
        split: str = "image",
        skip_corrupt: bool = False,
    ) -> None:
        self.records = records
        self._undecoded = undecoded(records)
        self.split = split
        self.skip_corrupt = skip_corrupt
        self._maker = ExampleMaker(label_rule, image_processor, augmentation, seed)
        self.image_mean, self.image_std = self._maker.image_mean, self._maker.image_std
        # Shared, so that worker processes that outlive an epoch see the next one, and that what
        # one of them finds is known to all.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._corrupt = torch.zeros(len(records), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_corrupt(self) -> int:
        """Records found so far, by any worker of this process, that do not decode."""
        return int(self._corrupt.sum())

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, so that an image is augmented differently each time it comes round."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one pair.

        Returns:
            `pixel_values`, float32 [3, H, W], `labels`, int64 [H, W], and `name`, the image's
            file or "split index".

        Raises:
            InputError: If a file cannot be read, image and label differ in size, or a label id has
                no class.
        """
        return self.example(index)

    def example(self, index: int, *repetition: int) -> dict[str, Any]:
        """Reads one pair; a repetition number gives it another augmentation in the same epoch."""
        image, label, name = self._read_or_replace(index)
        return self._maker.example(image, label, name, int(self._epoch), index, *repetition)

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads one pair as it is stored.

        Returns:
            uint8 image [3, H, W] and uint8 class ids [H, W].

        Raises:
            InputError: As `__getitem__`.
        """
        return self._read(index)[:2]

    def _read_or_replace(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        if not self.skip_corrupt:
            return self._read(index)
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self._read(candidate)
            except CorruptFileError as error:
                if not self._corrupt[candidate]:
                    self._corrupt[candidate] = True
                    logger.warning("skipped: %s", error)
        raise CorruptFileError(f"none of the {len(self)} records can be read")

    def _read(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        return self._maker.pair(self._undecoded[index], index, self.split)


def collate(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stacks a batch; images of different sizes stay a list, for evaluation one at a time.

    Args:
        batch: Examples with `pixel_values` and `labels`, tensors or arrays, and perhaps `name`;
            other keys are left out.

    Returns:
        `pixel_values` [B, 3, H, W] and `labels` [B, H, W], or two lists of B tensors; and `names`,
        B strings, where every example has a name.
    """
    columns: dict[str, Any] = {
        key: [torch.as_tensor(example[key]) for example in batch]
        for key in ("pixel_values", "labels")
    }
    if len({tensor.shape for tensor in columns["labels"]}) == 1:
        columns = {key: torch.stack(tensors) for key, tensors in columns.items()}
    if all("name" in example for example in batch):
        columns["names"] = [example["name"] for example in batch]
    return columns
