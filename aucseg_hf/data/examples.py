"""From one record to one example: decoded, augmented by a keyed generator, normalised."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F
from transformers import BaseImageProcessor

from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.labels import LabelRule
from aucseg_hf.data.records import decode
from aucseg_hf.errors import InputError
from aucseg_hf.images import to_rgb


class ExampleMaker:
    """Makes the tensors of training and evaluation from one image and its label image.

    Args:
        label_rule: Turns label images into class ids with 255 for void.
        image_processor: Its `image_mean`, `image_std` and `rescale_factor` normalise the images,
            unless its `do_normalize` is off; MobileViT's also puts the channels in reverse order.
        augmentation: Applied to training pairs; None keeps the native size.
        seed: First part of the key of every random choice.

    Attributes:
        image_mean: Mean of each channel that normalisation subtracts, of images in 0..1.
        image_std: Standard deviation it divides by.
    """

    def __init__(
        self,
        label_rule: LabelRule,
        image_processor: BaseImageProcessor,
        augmentation: TrainAugmentation | None = None,
        seed: int = 0,
    ) -> None:
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

    def pair(
        self, record: Mapping[str, Any], index: int, split: str
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Decodes one record.

        Args:
            record: {"image", "label"}, decoded or not; images of any mode, labels of raw ids.
            index: Position of the record, which with the split names what is no file.
            split: As above: "train" and 17 are "train 17".

        Returns:
            uint8 image [3, H, W], uint8 class ids [H, W] and the image's name.

        Raises:
            CorruptFileError: If a file does not decode.
            InputError: If image and label differ in size, or a label id has no class.
        """
        image, name = decode(record["image"], f"{split} {index}")
        label, label_name = decode(record["label"], f"label {index}")
        pixels = F.pil_to_tensor(to_rgb(image))
        ids = torch.from_numpy(self.label_rule(label, label_name))
        if pixels.shape[1:] != ids.shape:
            raise InputError(
                f"sizes differ: image {name} is {pixels.shape[2]}x{pixels.shape[1]}, "
                f"label {label_name} is {ids.shape[1]}x{ids.shape[0]}"
            )
        return pixels, ids, name

    def example(
        self, image: torch.Tensor, label: torch.Tensor, name: str, *key: int
    ) -> dict[str, Any]:
        """Augments and normalises one pair.

        Args:
            image: uint8 [3, H, W].
            label: uint8 [H, W].
            name: What the example is called.
            *key: Together with the seed it decides every random choice: epoch, index, and so on.

        Returns:
            `pixel_values`, float32 [3, H, W], `labels`, int64 [H, W], and `name`.
        """
        if self.augmentation is not None:
            state = np.random.SeedSequence([self.seed, *key]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0]))
            image, label = self.augmentation(image, label, generator)
        if self._reverse_channels:
            image = image.flip(0)
        pixel_values = (image - self._shift).div_(self._scale)
        return {"pixel_values": pixel_values, "labels": label.long(), "name": name}
