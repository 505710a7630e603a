"""Joint augmentation of image and label, with every random choice drawn from one generator."""

from dataclasses import dataclass

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from aucseg_hf.data.labels import VOID

_CROP_TRIES = 10


@dataclass(frozen=True)
class TrainAugmentation:
    """Random scale, crop, flip and photometric distortion, as the published settings use them.

    Args:
        crop_size: (height, width) of the result, in pixels.
        scale: Range of the random resize factor.
        cat_max_ratio: A crop in which one class covers more than this share is drawn again, up to
            ten times.
        photometric: Whether to change brightness, contrast, saturation and hue.
    """

    crop_size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    photometric: bool = True

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augments one pair.

        Args:
            image: uint8 [3, H, W].
            label: uint8 [H, W].
            generator: Source of every random choice; its state decides the result.

        Returns:
            uint8 image [3, crop height, crop width] and uint8 label of the same size. Where the
            scaled image is smaller than the crop, the image is padded with its mean colour, the
            label with void.
        """
        height, width = label.shape
        factor = _uniform(generator, *self.scale)
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        image = F.resize(image, size, antialias=True)
        # NEAREST_EXACT has the bilinear resize's pixel centres; NEAREST is off by half a pixel.
        label = F.resize(label[None], size, interpolation=InterpolationMode.NEAREST_EXACT)[0]
        image, label = self._pad(image, label)
        top, left = self._choose_crop(label, generator)
        image = F.crop(image, top, left, *self.crop_size)
        label = F.crop(label, top, left, *self.crop_size)
        if _uniform(generator) < 0.5:
            image, label = F.horizontal_flip(image), F.horizontal_flip(label)
        if self.photometric:
            image = distort_colors(image, generator)
        return image, label

    def _pad(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bottom = max(0, self.crop_size[0] - label.shape[0])
        right = max(0, self.crop_size[1] - label.shape[1])
        if bottom or right:
            mean = image.float().mean(dim=(1, 2)).round().tolist()
            image = F.pad(image, [0, 0, right, bottom], fill=mean)
            label = F.pad(label[None], [0, 0, right, bottom], fill=VOID)[0]
        return image, label

    def _choose_crop(self, label: torch.Tensor, generator: torch.Generator) -> tuple[int, int]:
        height, width = self.crop_size
        for _ in range(_CROP_TRIES):
            top = _randint(generator, label.shape[0] - height)
            left = _randint(generator, label.shape[1] - width)
            crop = label[top : top + height, left : left + width]
            counts = torch.bincount(crop.reshape(-1), minlength=VOID + 1)[:VOID]
            if (counts > 0).sum() > 1 and counts.max() < self.cat_max_ratio * counts.sum():
                break
        return top, left


def distort_colors(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Changes brightness, contrast, saturation and hue, each with probability one half.

    Args:
        image: uint8 [3, H, W].
        generator: Source of the random choices.

    Returns:
        uint8 [3, H, W].
    """
    for adjust, low, high in (
        (F.adjust_brightness, 0.75, 1.25),
        (F.adjust_contrast, 0.5, 1.5),
        (F.adjust_saturation, 0.5, 1.5),
        (F.adjust_hue, -0.05, 0.05),
    ):
        if _uniform(generator) < 0.5:
            image = adjust(image, _uniform(generator, low, high))
    return image


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _randint(generator: torch.Generator, high: int) -> int:
    return int(torch.randint(high + 1, (), generator=generator))
