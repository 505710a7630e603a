"""The measures as a metric of the ``evaluate`` library, without network and without a cache."""

from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from aucseg_hf.metrics import SegmentationMetrics

_DESCRIPTION = "Mean IoU, pixel AUC and related measures of semantic segmentation, streaming."
_INPUTS = """
Inputs: label maps of class ids, or logits [K, h, w] as predictions; references are label maps.
"""


class SegmentationMetric(evaluate.Metric):
    """``evaluate``'s interface to :class:`~aucseg_hf.metrics.SegmentationMetrics`.

    The values of ``mean_iou``, ``mean_accuracy``, ``overall_accuracy``, ``per_category_iou`` and
    ``per_category_accuracy`` are those of ``evaluate.load("mean_iou")``, which downloads its code
    and stores every label map in an Arrow file. Here only counts are kept.

    Example:
        >>> metric = SegmentationMetric(num_labels=3)
        >>> metric.add(prediction=[[0, 0, 1], [1, 1, 2]], reference=[[0, 0, 0], [1, 1, 255]])
        >>> metric.compute()["overall_accuracy"]
        0.8

    Args:
        num_labels: Number of classes K.
        ignore_index: Label of void pixels.
        groups: Class ids by group name.
        **options: Other options of ``SegmentationMetrics``.

    Raises:
        InputError: As ``SegmentationMetrics``.
    """

    def __init__(
        self,
        num_labels: int,
        ignore_index: int = 255,
        groups: Mapping[str, Iterable[int]] | None = None,
        **options: Any,
    ) -> None:
        self.counts = SegmentationMetrics(num_labels, ignore_index, groups, **options)
        super().__init__()

    def _build_data_dir(self) -> str:
        """Return where nothing is stored; the base class would make a folder."""
        return ""

    def _info(self) -> evaluate.MetricInfo:
        """Describe the metric."""
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": maps, "references": maps}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one image.

        Args:
            prediction: Integer map [H, W] of class ids, or float logits [K, h, w].
            reference: Integer map [H, W] of labels.
            **kwargs: None; for the signature of the base class.

        Raises:
            InputError: As ``SegmentationMetrics.update``.
        """
        self.counts.update(_as_tensor(prediction)[None], _as_tensor(reference)[None])

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Count images, which may differ in size.

        Args:
            predictions: Maps [H, W] or logits [K, h, w], one an image.
            references: Maps [H, W], one an image.
            **kwargs: None; for the signature of the base class.

        Raises:
            InputError: As ``SegmentationMetrics.update``.
        """
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(
        self, *, predictions: Any = None, references: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Compute the measures of all images since the last call.

        Args:
            predictions: Images to count first, as for ``add_batch``.
            references: Their labels.
            **kwargs: None; for the signature of the base class.

        Returns:
            The result of ``SegmentationMetrics.compute``.
        """
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        return self._compute()

    def _compute(self) -> dict[str, Any]:
        """Compute the measures and start anew."""
        result = self.counts.compute()
        self.counts.reset()
        return result


def _as_tensor(values: Any) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values))
