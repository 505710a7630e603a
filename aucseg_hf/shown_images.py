"""The worst and the best images of an evaluation, with what was predicted for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from transformers import BaseImageProcessor, PreTrainedModel

from aucseg_hf.colors import overlay
from aucseg_hf.data.dataset import SegmentationDataset
from aucseg_hf.evaluation import Evaluation, View, predict_example

_PANEL = 360  # pixels of the longer side
_GAP = 4


@dataclass(frozen=True)
class ShownImage:
    """An image of a data set with what was predicted for it.

    Attributes:
        name: File name, or number of the image.
        mean_iou: Mean IoU within the image.
        image: The image.
        label: Integer array [H, W].
        prediction: Integer array [H, W].
    """

    name: str
    mean_iou: float
    image: PIL.Image.Image
    label: np.ndarray
    prediction: np.ndarray

    def strip(self, colors: np.ndarray) -> PIL.Image.Image:
        """Draw the image, its label and its prediction side by side.

        Args:
            colors: uint8 array [K, 3].
        """
        panels = [
            self.image.copy(),
            overlay(self.image, self.label, colors),
            overlay(self.image, self.prediction, colors),
        ]
        for panel in panels:
            panel.thumbnail((_PANEL, _PANEL))
        width, height = panels[0].size
        strip = PIL.Image.new("RGB", (3 * width + 2 * _GAP, height), "white")
        for number, panel in enumerate(panels):
            strip.paste(panel, (number * (width + _GAP), 0))
        return strip


def worst_and_best(
    evaluation: Evaluation,
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    dataset: SegmentationDataset,
    view: View,
    count: int = 4,
) -> tuple[list[ShownImage], list[ShownImage]]:
    """Predict again the images with the smallest and the largest mean IoU.

    Args:
        evaluation: What was measured of this model, data set and view.
        model: The model.
        image_processor: Prepares the pixels.
        dataset: The images.
        view: How the model sees an image.
        count: Most images wanted of each kind.

    Returns:
        The worst, worst first, and the best, best first.
    """
    mean_iou = evaluation.images.mean_iou()

    def show(index: int) -> ShownImage:
        return ShownImage(
            Path(dataset[index]["name"]).name,
            float(mean_iou[index]),
            *predict_example(model, image_processor, dataset, index, view),
        )

    worst, best = evaluation.extremes(count)
    return [show(i) for i in worst], [show(i) for i in best]
