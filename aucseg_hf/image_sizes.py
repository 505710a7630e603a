"""Which image sizes a model type can take, and how to run it on all others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers import PreTrainedConfig

from aucseg_hf.errors import InputError


@dataclass(frozen=True)
class ImageSizes:
    """The image sizes a model can take.

    Attributes:
        multiple: Both sides have to be multiples of this; the side of a patch, else 1. transformers
            cuts off what remains, so that the logits would be those of a smaller image.
        fixed: The only (height, width) there is, or None.
    """

    multiple: int = 1
    fixed: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> "ImageSizes":
        """Reads the constraints of a model's configuration."""
        model_type = config.model_type
        hybrid = getattr(config, "is_hybrid", False)
        if model_type in ("data2vec-vision", "eomt", "eomt_dinov3") or hybrid:
            return cls(fixed=_pair(config.image_size))
        if model_type in ("beit", "dpt", "sapiens2"):
            return cls(multiple=lcm(*_pair(config.patch_size)))
        backbone = getattr(config, "backbone_config", None)
        # Of all backbones, those made of patches of one size have this switch.
        if hasattr(backbone, "reshape_hidden_states"):
            return cls(multiple=lcm(*_pair(backbone.patch_size)))
        return cls()

    def smallest(self, size: Sequence[int]) -> tuple[int, int]:
        """The smallest size (height, width) the model takes that holds `size`, or `fixed`."""
        if self.fixed is not None:
            return self.fixed
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return height, width


def check_image_size(config: PreTrainedConfig, size: Sequence[int]) -> None:
    """Checks a training crop.

    Args:
        config: Configuration of the model.
        size: Height and width, in pixels.

    Raises:
        InputError: If the model cannot take images of this size.
    """
    sizes = ImageSizes.from_config(config)
    height, width = smallest = sizes.smallest(size)
    if tuple(size) == smallest:
        return
    expected = f"of {height} x {width}"
    if sizes.fixed is None:
        expected = f"with sides that are multiples of {sizes.multiple}"
    raise InputError(
        f"expected training images {expected} for {config.model_type}, "
        f"got {size[0]} x {size[1]}: use --crop_size {height} {width}"
    )


def any_size_logits(
    forward: Callable[[Tensor], Tensor], sizes: ImageSizes, pixel_values: Tensor
) -> Tensor:
    """Logits of images of any size.

    Where the model cannot take the size, the images are filled up with zeros (the mean colour) at
    the bottom and on the right, and a model of one fixed size sees overlapping windows.

    Args:
        forward: Gives the logits [B, K, h, w] of images of a size the model takes.
        sizes: What the model takes.
        pixel_values: [B, 3, H, W].

    Returns:
        Logits: as `forward` gives them where it takes the size, else float32 [B, K, H, W].
    """
    height, width = pixel_values.shape[-2:]
    window = sizes.smallest((height, width))
    if window == (height, width):
        return forward(pixel_values)
    fill = (0, max(0, window[1] - width), 0, max(0, window[0] - height))
    stride = tuple(max(1, side * 3 // 4) for side in window)
    return sliding_logits(forward, pad(pixel_values, fill), window, stride)[..., :height, :width]


def sliding_logits(
    forward: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    window: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Mean of the logits of all windows that cover a pixel.

    Args:
        forward: Gives the logits [B, K, h, w] of a window.
        pixel_values: [B, 3, H, W].
        window: Height and width of a window, cut to those of the image.
        stride: Vertical and horizontal step; the last window ends with the image.

    Returns:
        float32 [B, K, H, W].
    """
    height, width = pixel_values.shape[-2:]
    window_height, window_width = min(window[0], height), min(window[1], width)
    total: Tensor | None = None
    count = pixel_values.new_zeros((height, width), dtype=torch.float32)
    for top in _starts(height, window_height, stride[0]):
        for left in _starts(width, window_width, stride[1]):
            rows, columns = slice(top, top + window_height), slice(left, left + window_width)
            view = pixel_values[..., rows, columns]
            logits = interpolate(
                forward(view).float(), size=view.shape[-2:], mode="bilinear", align_corners=False
            )
            if total is None:
                total = logits.new_zeros((*logits.shape[:2], height, width))
            total[..., rows, columns] += logits
            count[rows, columns] += 1
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    last = length - window
    return [*range(0, last, min(stride, window)), last]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width
