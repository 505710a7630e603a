"""SegmentationDataset: {"image", "label"} records as normalised tensors, repeatably augmented."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torchvision.transforms.v2 import functional as F
from transformers import BaseImageProcessor

from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.labels import LabelRule
from aucseg_hf.errors import InputError


class SegmentationDataset(torch.utils.data.Dataset):
    """Tensors for training or evaluation from any sequence of {"image", "label"} records.

    Args:
        records: For example a split of `load_benchmark`; images of any mode, labels of class ids.
        label_rule: Turns label images into class ids with 255 for void.
        image_processor: Its `image_mean`, `image_std` and `rescale_factor` normalise the images,
            unless its `do_normalize` is off; MobileViT's also puts the channels in reverse order.
        augmentation: Applied to training pairs; None keeps the native size.
        seed: Together with epoch and index it decides every random choice.

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
    ) -> None:
        self.records = records
        self.label_rule = label_rule
        self.augmentation = augmentation
        self.seed = seed
        normalize = getattr(image_processor, "do_normalize", None)
        mean, std = image_processor.image_mean, image_processor.image_std
        self.image_mean = [float(value) for value in (mean if normalize else [0] * 3)]
        self.image_std = [float(value) for value in (std if normalize else [1] * 3)]
        self._reverse_channels = getattr(image_processor, "do_flip_channel_order", False)
        # (x * rescale_factor - mean) / std with the operations in the processors' own order.
        levels = 1 / image_processor.rescale_factor
        self._shift = torch.tensor(self.image_mean).view(3, 1, 1) * levels
        self._scale = torch.tensor(self.image_std).view(3, 1, 1) * levels
        # Shared, so that worker processes that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, so that an image is augmented differently each time it comes round."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Reads one pair.

        Returns:
            `pixel_values`, float32 [3, H, W], and `labels`, int64 [H, W].

        Raises:
            InputError: If a file cannot be read, image and label differ in size, or a label id has
                no class.
        """
        image, label = self.read(index)
        if self.augmentation is not None:
            key = np.random.SeedSequence([self.seed, int(self._epoch), index])
            generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0]))
            image, label = self.augmentation(image, label, generator)
        if self._reverse_channels:
            image = image.flip(0)
        return {"pixel_values": (image - self._shift) / self._scale, "labels": label.long()}

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads one pair as it is stored.

        Returns:
            uint8 image [3, H, W] and uint8 class ids [H, W].

        Raises:
            InputError: As `__getitem__`.
        """
        try:
            record = self.records[index]
        except (OSError, SyntaxError) as error:
            raise InputError(f"cannot read {self._unreadable(index)}: {error}") from error
        names = [
            getattr(record[key], "filename", "") or f"{key} {index}" for key in ("image", "label")
        ]
        image = F.pil_to_tensor(record["image"].convert("RGB"))
        label = torch.from_numpy(self.label_rule(record["label"], names[1]))
        if image.shape[1:] != label.shape:
            raise InputError(
                f"sizes differ: image {names[0]} is {image.shape[2]}x{image.shape[1]}, "
                f"label {names[1]} is {label.shape[1]}x{label.shape[0]}"
            )
        return image, label

    def _unreadable(self, index: int) -> str:
        """Finds which file of a record does not decode."""
        for column in self.records.with_format("arrow")[index].to_pylist()[0].values():
            path = Path(column["path"])
            try:
                PIL.Image.open(path).load()
            except (OSError, SyntaxError):
                return str(path)
        return f"record {index}"


def collate(batch: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Stacks a batch; images of different sizes stay a list, for evaluation one at a time.

    Args:
        batch: Examples with `pixel_values` and `labels`, tensors or arrays; other keys are left
            out.

    Returns:
        `pixel_values` [B, 3, H, W] and `labels` [B, H, W], or two lists of B tensors.
    """
    columns = {
        key: [torch.as_tensor(example[key]) for example in batch]
        for key in ("pixel_values", "labels")
    }
    if len({tensor.shape for tensor in columns["labels"]}) > 1:
        return columns
    return {key: torch.stack(tensors) for key, tensors in columns.items()}
