"""Label maps at native size: whole image or sliding window, several scales, flips."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import logging

from aucseg_hf.errors import InputError
from aucseg_hf.images import ImageSource, read_image
from aucseg_hf.semantic_forward import semantic_logits
from aucseg_hf.sliding_window import Axis, BlendedLogits, decide

logger = logging.get_logger(__name__)

# A larger image is seen through windows even if none were asked for: attention's time and memory
# grow with the square of the pixels. SegFormer-B0 takes 3.2 GB for this one, 7.6 GB for three times
# as many pixels.
LARGEST_WHOLE = 2048 * 2048
AUTOMATIC_WINDOW = 1024
# Its first attention looks at eighths of the quarter-size feature map.
SMALLEST_SEGFORMER = 32


class Prediction(NamedTuple):
    """What was predicted for one image.

    Attributes:
        labels: Class ids [H, W], uint8, or uint16 from 256 classes on.
        confidence: Softmax probability of each pixel's class, float16 [H, W], if asked for.
    """

    labels: np.ndarray
    confidence: np.ndarray | None


def predict(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    images: ImageSource | Iterable[ImageSource],
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    batch_size: int = 4,
) -> list[np.ndarray]:
    """Predicts one label map an image.

    The logits of overlapping windows are averaged with Gaussian weights; the softmax scores of
    several scales and of the mirrored image are averaged with equal ones.

    Args:
        model: Segmentation model of any supported type.
        image_processor: Prepares the pixels. Where it resizes, that is kept for a prediction of
            whole images at one scale, and left out otherwise.
        images: One or more images: PIL images of any mode, paths, or uint8 arrays [H, W],
            [H, W, 3] or [H, W, 4].
        window: Side, or (height, width), of a sliding window, in pixels of the scaled image. None
            sees the whole image, or uses windows of `AUTOMATIC_WINDOW` where an image has, at some
            scale, more than `LARGEST_WHOLE` pixels and the processor does not resize.
        stride: Step of the window, or (down, right); by default three quarters of it.
        scales: Factors by which the image is resized.
        flip: Whether to average with the mirrored image.
        batch_size: Number of windows the model sees at once; windows of one image, or of
            successive images of the same size.

    Returns:
        Class ids [H, W] of every image at its own size, uint8, or uint16 from 256 classes on.

    Raises:
        InputError: If an image cannot be read or is too small, the window, the stride, a scale or
            the batch size is not positive, or a stride comes without a window.
    """
    options = {"window": window, "stride": stride, "scales": scales, "flip": flip}
    predictions = predict_each(model, image_processor, images, batch_size=batch_size, **options)
    return [prediction.labels for prediction in predictions]


@torch.inference_mode()
def predict_each(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    images: ImageSource | Iterable[ImageSource],
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    batch_size: int = 4,
    confidence: bool = False,
) -> Iterator[Prediction]:
    """Predicts images one after another, holding no more than `batch_size` of them.

    Takes what `predict` takes, with the same errors. Memory is bounded by the image, its label map
    and the logits of one row of windows, whatever the number of classes. `confidence` asks for the
    softmax probability of each pixel's class too.

    Yields:
        A prediction for every image, in order.
    """
    window = _pair("window", window) if window is not None else None
    stride = _pair("stride", stride) if stride is not None else None
    if stride is not None and window is None:
        raise InputError(f"expected a window with the stride {stride}, got none")
    if not scales or min(scales) <= 0:
        raise InputError(f"expected positive scales, got {list(scales)}")
    if batch_size < 1:
        raise InputError(f"expected a positive batch_size, got {batch_size}")
    if isinstance(images, ImageSource) and getattr(images, "ndim", 0) < 4:
        images = [images]
    model.eval()
    for stack in _stacks(images, batch_size):
        side = window or _automatic_window(image_processor, stack[0], scales)
        resizes = side is None and tuple(scales) == (1,)
        prepare = partial(image_processor, **_switches(image_processor, resizes))
        axes = [_axes(stack[0], scale, side, stride) for scale in scales]
        views = [
            _view(partial(_logits, model, prepare, mirrored=mirrored), stack, pair, batch_size)
            for pair, mirrored in product(axes, (False, True) if flip else (False,))
        ]
        labels, sure = decide(views, confidence)
        for index, label_map in enumerate(labels):
            yield Prediction(label_map, None if sure is None else sure[index])


def _logits(
    model: PreTrainedModel,
    prepare: Callable[..., Mapping[str, torch.Tensor]],
    crops: Sequence[PIL.Image.Image],
    mirrored: bool,
) -> torch.Tensor:
    """Logits, float32 [B, K, h, w], of crops of one size; a mirrored model sees them mirrored."""
    pixel_values = prepare(images=list(crops), return_tensors="pt")["pixel_values"]
    height, width = pixel_values.shape[-2:]
    if model.config.model_type == "segformer" and min(height, width) < SMALLEST_SEGFORMER:
        raise InputError(
            f"expected images, scaled images and windows of at least {SMALLEST_SEGFORMER} pixels a "
            f"side for segformer, got {width} x {height}"
        )
    pixel_values = pixel_values.to(model.device, model.dtype)
    if not mirrored:
        return semantic_logits(model, pixel_values).float()
    return semantic_logits(model, pixel_values.flip(-1)).float().flip(-1)


def _view(
    logits_of: Callable[[Sequence[PIL.Image.Image]], torch.Tensor],
    stack: Sequence[PIL.Image.Image],
    axes: tuple[Axis, Axis],
    batch_size: int,
) -> BlendedLogits:
    """Images of one size at the scale of their axes; windows are cut when they are needed."""
    rows, columns = axes
    size = (columns.scaled, rows.scaled)
    scaled = [
        image if image.size == size else image.resize(size, PIL.Image.Resampling.BILINEAR)
        for image in stack
    ]

    def cut_and_run(corners: Sequence[tuple[int, int]]) -> torch.Tensor:
        crops = [
            image.crop((left, top, left + columns.window, top + rows.window))
            for top, left in corners
            for image in scaled
        ]
        return logits_of(crops).unflatten(0, (len(corners), len(scaled)))

    return BlendedLogits(cut_and_run, rows, columns, max(1, batch_size // len(stack)))


def _axes(
    image: PIL.Image.Image,
    scale: float,
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None,
) -> tuple[Axis, Axis]:
    if window is None:
        return Axis.plan(image.height, scale), Axis.plan(image.width, scale)
    down, right = stride or (max(1, side * 3 // 4) for side in window)
    return (
        Axis.plan(image.height, scale, window[0], down),
        Axis.plan(image.width, scale, window[1], right),
    )


def _switches(image_processor: BaseImageProcessor, resizes: bool) -> dict[str, bool]:
    """What the processor must leave: a crop shifts labels, a resize undoes scale and window."""
    unwanted = ["do_center_crop"] if resizes else ["do_center_crop", "do_resize"]
    return {name: False for name in unwanted if getattr(image_processor, name, None)}


def _automatic_window(
    image_processor: BaseImageProcessor, image: PIL.Image.Image, scales: Sequence[float]
) -> tuple[int, int] | None:
    pixels = image.width * image.height * max(scales) ** 2
    if pixels <= LARGEST_WHOLE or getattr(image_processor, "do_resize", None):
        return None
    logger.warning_once(
        "an image of %d x %d is seen through windows of %d pixels; pass window to choose their "
        "size",
        *image.size,
        AUTOMATIC_WINDOW,
    )
    return AUTOMATIC_WINDOW, AUTOMATIC_WINDOW


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise InputError(f"expected a positive {name}, or (height, width), got {value}")
    return pair


def _stacks(sources: Iterable[ImageSource], most: int) -> Iterator[list[PIL.Image.Image]]:
    """Reads images and gives successive ones of the same size together."""
    stack: list[PIL.Image.Image] = []
    for source in sources:
        image = read_image(source)
        if stack and image.size != stack[0].size:
            yield stack
            stack = []
        stack.append(image)
        if len(stack) == most:
            yield stack
            stack = []
    if stack:
        yield stack
