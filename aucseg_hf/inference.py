"""Label maps at native size: whole image or sliding window, several scales, flips."""

from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
import torch
from torch.nn.functional import interpolate
from transformers import BaseImageProcessor, PreTrainedModel

from aucseg_hf.errors import InputError
from aucseg_hf.image_sizes import sliding_logits
from aucseg_hf.semantic_forward import semantic_logits


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    images: PIL.Image.Image | Sequence[PIL.Image.Image],
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[np.ndarray]:
    """Predicts one label map an image, averaging softmax scores over windows, scales and flips.

    Args:
        model: Segmentation model of any supported type.
        image_processor: Prepares the pixels; where it resizes, a prediction without `window` does
            too.
        images: Images of any mode and size.
        window: Side, or (height, width), of a sliding window in native pixels; None sees the whole
            image.
        stride: Step of the window; by default three quarters of it.
        scales: Factors by which the prepared image is resized.
        flip: Whether to average with the mirrored image.

    Returns:
        uint8 (uint16 from 256 classes on) class ids [H, W] for each image, at its own size.

    Raises:
        InputError: If the window, the stride or a scale is not positive.
    """
    if isinstance(images, PIL.Image.Image):
        images = [images]
    window_size = _pair("window", window) if window is not None else None
    if window_size is None:
        step = None
    elif stride is None:
        step = tuple(max(1, side * 3 // 4) for side in window_size)
    else:
        step = _pair("stride", stride)
    if not scales or min(scales) <= 0:
        raise InputError(f"expected positive scales, got {list(scales)}")
    model.eval()
    # A crop would shift the labels; a resize is undone by the upsampling, but not window by window.
    options = {}
    if getattr(image_processor, "do_center_crop", None):
        options["do_center_crop"] = False
    if window_size is not None:
        options["do_resize"] = False
    maps = []
    for image in images:
        pixels = image_processor(images=image.convert("RGB"), return_tensors="pt", **options)
        pixels = pixels["pixel_values"].to(model.device, model.dtype)
        size = (image.height, image.width)
        views = [
            _logits(model, view, size, window_size, step, mirrored)
            for view in _rescaled(pixels, scales)
            for mirrored in ((False, True) if flip else (False,))
        ]
        # A single view needs no softmax, whose rounding could make ties.
        scores = views[0] if len(views) == 1 else sum(view.softmax(dim=0) for view in views)
        ids = scores.argmax(dim=0).cpu().numpy()
        maps.append(ids.astype(np.uint8 if scores.shape[0] <= 256 else np.uint16))
    return maps


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(f"expected a positive {name}, or (height, width), got {value}")
    return pair


def _rescaled(pixels: torch.Tensor, scales: Sequence[float]) -> Iterator[torch.Tensor]:
    for scale in scales:
        if scale == 1:
            yield pixels
        else:
            size = [max(1, round(side * scale)) for side in pixels.shape[-2:]]
            yield interpolate(
                pixels, size=size, mode="bilinear", align_corners=False, antialias=True
            )


def _logits(
    model: PreTrainedModel,
    pixels: torch.Tensor,
    size: tuple[int, int],
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    mirrored: bool,
) -> torch.Tensor:
    """Logits, float32 [K, *size], of one view [1, 3, h, w] of an image."""
    if mirrored:
        pixels = pixels.flip(-1)
    if window is None:
        logits = _upsampled_logits(model, pixels, size)
    else:
        logits = sliding_logits(lambda view: semantic_logits(model, view), pixels, window, stride)
        if logits.shape[-2:] != size:
            logits = interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits[0].flip(-1) if mirrored else logits[0]


def _upsampled_logits(
    model: PreTrainedModel, pixels: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    logits = semantic_logits(model, pixels).float()
    return interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
