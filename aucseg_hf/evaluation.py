"""Evaluation of a trained model on a split of a data set, with confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

from aucseg_hf.bootstrap import confidence_intervals
from aucseg_hf.data.dataset import SegmentationDataset
from aucseg_hf.data.info import Benchmark, BenchmarkInfo
from aucseg_hf.data.labels import VOID
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.errors import InputError
from aucseg_hf.image_counts import ImageCounts
from aucseg_hf.inference import predict
from aucseg_hf.metrics import SegmentationMetrics
from aucseg_hf.semantic_forward import semantic_logits

_MOST_NAMES = 5


@dataclass(frozen=True)
class View:
    """How the model sees an image, as :func:`aucseg_hf.predict` takes it.

    Attributes:
        window: Side of a sliding window in pixels, or None for the whole image.
        scales: Factors by which the image is resized.
        flip: Whether the mirrored image is averaged in.
    """

    window: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the model sees each image once and whole."""
        return self == View()


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        measures: Result of :meth:`aucseg_hf.SegmentationMetrics.compute`, with boundary IoU.
        intervals: Result of :func:`aucseg_hf.bootstrap.confidence_intervals`.
        confusion: int64 array [K, K]: row label, column prediction.
        images: Pixel counts of every image.
    """

    measures: dict[str, Any]
    intervals: dict[str, np.ndarray]
    confusion: np.ndarray
    images: ImageCounts

    def extremes(self, count: int) -> tuple[list[int], list[int]]:
        """Find the images with the smallest and those with the largest mean IoU.

        Args:
            count: Most images wanted of each kind.

        Returns:
            Indices of the worst images, worst first, and of the best, best first. No image is in
            both; images without a labelled pixel are in neither.
        """
        iou = self.images.mean_iou()
        ranked = [int(i) for i in np.argsort(iou, kind="stable") if not np.isnan(iou[i])]
        worst = ranked[: min(count, (len(ranked) + 1) // 2)]
        return worst, ranked[len(worst) :][-count:][::-1]


def evaluate(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    dataset: SegmentationDataset,
    groups: Mapping[str, Sequence[int]] | None = None,
    view: View | None = None,
    *,
    resamples: int = 1000,
    progress: bool = False,
) -> Evaluation:
    """Measure a model on a data set at the images' own size.

    The pixel AUC needs the scores of one plain view: another view is measured without it.

    Args:
        model: Segmentation model with as many classes as the data.
        image_processor: Prepares the pixels.
        dataset: Images and labels, without augmentation.
        groups: Class ids by group name.
        view: How the model sees an image; once and whole by default.
        resamples: Bootstrap resamples behind the intervals.
        progress: Whether to show a progress bar.

    Returns:
        The measures, with 95 % intervals by bootstrap over images.

    Raises:
        InputError: There are no images, an image or label cannot be read, or no pixel has a label.
    """
    if not len(dataset):
        raise InputError("expected at least one image to evaluate, got none")
    view = view or View()
    metrics = SegmentationMetrics(model.config.num_labels, VOID, groups, boundary_iou=True)
    model.eval()
    for index in tqdm(range(len(dataset)), desc="evaluating", disable=not progress):
        if view.is_plain:
            example = dataset[index]
            pixel_values = example["pixel_values"][None].to(model.device, model.dtype)
            with torch.inference_mode():
                logits = semantic_logits(model, pixel_values)
            metrics.update(logits, example["labels"][None])
        else:
            image, label = dataset.read(index)
            prediction = _predict(model, image_processor, image, view)
            metrics.update(torch.from_numpy(prediction)[None].int(), label[None])
    if not metrics.confusion.any():
        raise InputError(
            f"expected labelled pixels in the {len(dataset)} images, got only the ignore index; "
            "check the label files"
        )
    return Evaluation(
        metrics.compute(),
        confidence_intervals(metrics.images, groups, resamples=resamples),
        metrics.confusion.cpu().numpy(),
        metrics.images,
    )


def predict_example(
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    dataset: SegmentationDataset,
    index: int,
    view: View,
) -> tuple[PIL.Image.Image, np.ndarray, np.ndarray]:
    """Predict one image of a data set again.

    Returns:
        The image, its labels [H, W] and the prediction [H, W].
    """
    image, label = dataset.read(index)
    prediction = _predict(model, image_processor, image, view)
    return PIL.Image.fromarray(image.permute(1, 2, 0).numpy()), label.numpy(), prediction


def class_groups(
    benchmark: Benchmark, config: PreTrainedConfig, progress: bool = False
) -> dict[str, list[int]]:
    """Split the classes by their share of the training pixels, where there is a training split.

    Args:
        benchmark: The data set. Its published tail, where there is one, is the tail.
        config: The model's configuration, whose tail is the last resort.
        progress: Whether to show a progress bar.

    Returns:
        Class ids of ``head``, ``middle`` and ``tail``; of ``other`` and ``tail`` without a training
        split, or nothing where no tail is known either.
    """
    info = benchmark.info
    if "train" in benchmark:
        return ClassStatistics.from_dataset(
            benchmark["train"],
            info.num_labels,
            tail_classes=info.tail_classes,
            progress=progress,
            label_rule=info.label_rule,
        ).groups
    settings = getattr(config, "aucseg", None) or {}
    tail = info.tail_classes or settings.get("tail_classes")
    if not tail:
        return {}
    other = [i for i in range(info.num_labels) if i not in tail]
    return {"other": other, "tail": sorted(tail)}


def check_classes(config: PreTrainedConfig, name: str, info: BenchmarkInfo) -> None:
    """Check that a model and a data set have the same classes.

    Args:
        config: The model's configuration.
        name: What to call the model.
        info: The data set.

    Raises:
        InputError: Their number or a name differs.
    """
    theirs = [config.id2label[i] for i in sorted(config.id2label)]
    if len(theirs) != info.num_labels:
        only = [*(set(theirs) ^ set(info.class_names))]
        raise InputError(
            f"{name} has {len(theirs)} classes but {info.name} has {info.num_labels}; "
            f"only one of them has {_listed(sorted(only))}"
        )
    unequal = [
        f"{i}: {a!r} and {b!r}"
        for i, (a, b) in enumerate(zip(theirs, info.class_names, strict=True))
        if a != b
    ]
    if unequal:
        raise InputError(
            f"{name} and {info.name} name {len(unequal)} of {len(theirs)} classes differently: "
            f"{_listed(unequal)}; evaluate on the data set the model was trained for"
        )


def _predict(
    model: PreTrainedModel, image_processor: BaseImageProcessor, image: torch.Tensor, view: View
) -> np.ndarray:
    picture = PIL.Image.fromarray(image.permute(1, 2, 0).numpy())
    (prediction,) = predict(
        model,
        image_processor,
        picture,
        window=view.window,
        scales=view.scales,
        flip=view.flip,
    )
    return prediction


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - _MOST_NAMES
    return ", ".join(items[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
