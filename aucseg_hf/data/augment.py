"""Joint augmentation of image and label, with every random choice drawn from one generator."""

import math
from dataclasses import dataclass

import PIL.Image
import torch
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
        factor = _uniform(generator, *self.scale)
        size = tuple(max(1, round(side * factor)) for side in label.shape)
        (top, left), ids = self._choose_crop(label, size, generator)
        bottom, right = (side - part for side, part in zip(self.crop_size, ids.shape, strict=True))
        label = F.pad(ids[None], [0, 0, right, bottom], fill=VOID)[0]
        crop = resize_crop(image, size, (top, left), ids.shape)
        if bottom or right:
            mean = image.float().mean(dim=(1, 2)).round().tolist()
            crop = F.pad(crop, [0, 0, right, bottom], fill=mean)
        if _uniform(generator) < 0.5:
            crop, label = F.horizontal_flip(crop), F.horizontal_flip(label)
        if self.photometric:
            crop = distort_colors(crop, generator)
        return crop, label

    def _choose_crop(
        self, label: torch.Tensor, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[tuple[int, int], torch.Tensor]:
        """Draws where to crop the resized label; returns (top, left) and that part of it."""
        height, width = (min(side, crop) for side, crop in zip(size, self.crop_size, strict=True))
        rows, columns = (_nearest(out, side) for out, side in zip(size, label.shape, strict=True))
        for _ in range(_CROP_TRIES):
            top = _randint(generator, size[0] - height)
            left = _randint(generator, size[1] - width)
            ids = label[rows[top : top + height]][:, columns[left : left + width]]
            counts = torch.bincount(ids.reshape(-1), minlength=VOID + 1)[:VOID]
            if (counts > 0).sum() > 1 and counts.max() < self.cat_max_ratio * counts.sum():
                break
        return (top, left), ids


def resize_crop(
    image: torch.Tensor, size: tuple[int, int], corner: tuple[int, int], shape: tuple[int, int]
) -> torch.Tensor:
    """A crop of the resized image, of which no other pixel is computed.

    Args:
        image: uint8 [3, H, W].
        size: (height, width) of the whole resized image, bilinear with antialiasing.
        corner: (top, left) of the crop in it.
        shape: (height, width) of the crop.

    Returns:
        uint8 [3, crop height, crop width].
    """
    boxes, slices = [], []
    for side, out, start, length in zip(image.shape[1:], size, corner, shape, strict=True):
        step = side / out
        # The filter reaches one output pixel, or one input pixel where those are larger.
        first = max(0, math.floor(start * step - max(1, step)) - 1)
        last = min(side, math.ceil((start + length) * step + max(1, step)) + 1)
        slices.append(slice(first, last))
        boxes.append((start * step - first, min((start + length) * step, side) - first))
    (top, bottom), (left, right) = boxes
    part = image[:, slices[0], slices[1]].permute(1, 2, 0).contiguous().numpy()
    # Of the resizes at hand, Pillow's takes a box that ends between pixels.
    resized = PIL.Image.fromarray(part).resize(
        shape[::-1], PIL.Image.Resampling.BILINEAR, (left, top, right, bottom)
    )
    return F.pil_to_tensor(resized).contiguous()


def _nearest(out: int, side: int) -> torch.Tensor:
    """Input index of each output pixel: the one its centre lies in, as in the bilinear resize."""
    return ((2 * torch.arange(out) + 1) * side) // (2 * out)


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
        (rotate_hue, -0.05, 0.05),
    ):
        if _uniform(generator) < 0.5:
            image = adjust(image, _uniform(generator, low, high))
    return image


def rotate_hue(image: torch.Tensor, turn: float) -> torch.Tensor:
    """Turns the hue of every pixel; value and saturation stay (HSV).

    torchvision's `adjust_hue` up to rounding, at a fifth of its time.

    Args:
        image: uint8 [3, H, W].
        turn: Of a whole turn, in -0.5..0.5.

    Returns:
        uint8 [3, H, W].
    """
    red, green, blue = channels = image.float()
    value, least = channels.amax(0), channels.amin(0)
    chroma = value - least
    scale = 1 / chroma.clamp(min=1)  # levels are whole, so this changes grey pixels only
    # Sextants from red: the position between the two largest channels.
    sextant = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    ).add_(6 * turn)
    for channel, offset in zip(channels, (5, 3, 1), strict=True):
        distance = (sextant + offset).remainder_(6)
        share = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        torch.addcmul(value, chroma, share, value=-1, out=channel)
    return channels.round_().to(torch.uint8)


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _randint(generator: torch.Generator, high: int) -> int:
    return int(torch.randint(high + 1, (), generator=generator))
