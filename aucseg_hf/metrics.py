"""Measures of semantic segmentation over a whole data set, gathered batch by batch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from aucseg_hf.boundary_iou import boundary_counts
from aucseg_hf.errors import InputError
from aucseg_hf.image_counts import ImageCounts
from aucseg_hf.pixel_auc import ScoreHistograms

_CHUNK_PIXELS = 2**21


class SegmentationMetrics:
    """Segmentation measures of a whole data set, gathered batch by batch.

    All state is integer counts, so merging over parts of the data set or over processes is exact.
    Names and values equal those of ``evaluate``'s ``mean_iou``: a class that neither labels nor
    predictions contain has IoU NaN, a class that no label contains has accuracy NaN, and means
    leave NaN out. Counters live on the device of the latest predictions, except the small ones of
    single images.

    Example:
        >>> metrics = SegmentationMetrics(num_labels=3, groups={"head": [0], "tail": [1, 2]})
        >>> labels = torch.tensor([[[0, 0, 0], [1, 1, 255]]])
        >>> predictions = torch.tensor([[[0, 0, 1], [1, 1, 2]]])
        >>> metrics.update(predictions, labels)
        >>> result = metrics.compute()
        >>> result["per_category_iou"].round(3).tolist()
        [0.667, 0.667, nan]
        >>> round(result["mean_iou_tail"], 3), result["overall_accuracy"]
        (0.667, 0.8)

    Args:
        num_labels: Number of classes K.
        ignore_index: Label of void pixels, which count nowhere.
        groups: Class ids by group name, e.g. ``{"head": [0, 1], "middle": [2], "tail": [3]}``.
        pixel_auc: Whether logits, where given, also feed the pixel AUC (8 * K**2 * 512 bytes).
        max_scores: Scores (pixels times classes) per image that the pixel AUC reads, None for all.
            :class:`~aucseg_hf.pixel_auc.ScoreHistograms` describes the sample of larger images.
        boundary_iou: Whether to measure boundary IoU too.

    Attributes:
        confusion: int64 tensor [K, K] of pixels: row label, column prediction.
        images: Counts of every image, for measures of single images and for
            :mod:`aucseg_hf.bootstrap`.

    Raises:
        InputError: A group holds an id outside 0..K-1, or ``num_labels`` is below 2.
    """

    def __init__(
        self,
        num_labels: int,
        ignore_index: int = 255,
        groups: Mapping[str, Iterable[int]] | None = None,
        *,
        pixel_auc: bool = True,
        max_scores: int | None = 2**20,
        boundary_iou: bool = False,
    ) -> None:
        if num_labels < 2:
            raise InputError(f"expected num_labels >= 2, got {num_labels}")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.groups = {name: [int(i) for i in ids] for name, ids in (groups or {}).items()}
        for name, ids in self.groups.items():
            for class_id in ids:
                if not 0 <= class_id < num_labels:
                    raise InputError(
                        f"expected class ids in 0..{num_labels - 1} in group {name!r}, "
                        f"got {class_id}; check groups against num_labels"
                    )
        self.pixel_auc = pixel_auc
        self.max_scores = max_scores
        self.boundary_iou = boundary_iou
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far."""
        self.confusion = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64)
        self.images = ImageCounts(self.num_labels)
        # Pixels in both boundaries, in the label's, in the prediction's.
        self._boundary = torch.zeros(3, self.num_labels, dtype=torch.int64)
        self._scores: ScoreHistograms | None = None

    def update(self, predictions_or_logits: Tensor, labels: Tensor) -> None:
        """Count a batch; nothing is counted when an error is raised.

        Args:
            predictions_or_logits: Integer label maps [B, H, W], or float logits [B, K, h, w], which
                are upsampled bilinearly (``align_corners=False``) to label size, a few classes at a
                time. Images given as label maps do not enter the pixel AUC.
            labels: Integer tensor [B, H, W] of class ids, ``ignore_index`` where void.

        Raises:
            InputError: Shapes or dtypes do not fit, an id is outside 0..K-1, or a logit is not
                finite.
        """
        output = torch.as_tensor(predictions_or_logits)
        labels = torch.as_tensor(labels, device=output.device)
        is_logits = output.is_floating_point()
        self._check_shapes(output, labels, is_logits)
        void = labels == self.ignore_index
        labels = self._checked_ids(labels, void, "labels")
        if not is_logits:
            output = self._checked_ids(output, void, "predictions")
        elif not bool(torch.isfinite(output).all()):
            raise InputError("expected finite logits, got NaN or infinity; has training diverged?")
        self._move(output.device)
        for image, label, ignored in zip(output, labels, void, strict=True):
            prediction = upsampled_argmax(image, label.shape) if is_logits else image
            self._count(prediction, label, ignored)
            if is_logits and self.pixel_auc:
                self._histograms().update(
                    image, label.long().masked_fill_(ignored, self.num_labels)
                )

    def merge(self, other: "SegmentationMetrics") -> None:
        """Add what ``other`` has counted, as if this object had seen its images too.

        Args:
            other: Metrics with the same classes; left unchanged.

        Raises:
            InputError: ``other`` has another ``num_labels``, ``ignore_index`` or ``boundary_iou``.
        """
        for name in ("num_labels", "ignore_index", "boundary_iou"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise InputError(f"expected metrics with {name} {mine} to merge, got {theirs}")
        device = self.confusion.device
        self.confusion += other.confusion.to(device)
        self._boundary += other._boundary.to(device)
        self.images.merge(other.images)
        if other._scores is not None:
            self._histograms().counts += other._scores.counts.to(device)

    def all_reduce(self, process_group: dist.ProcessGroup | None = None) -> None:
        """Sum the counters over all ranks, so that each rank computes the measures of all images.

        The counts of single images are gathered in the order of the ranks.

        Does nothing when ``torch.distributed`` is not initialised. Call it once, after the last
        update: a second call would count everything again. A rank that saw no image may take part.

        Args:
            process_group: Ranks to sum over; all by default.
        """
        if not dist.is_initialized():
            return
        uses_nccl = "nccl" in dist.get_backend_config(process_group) and torch.cuda.is_available()
        self._move(torch.device("cuda", torch.cuda.current_device()) if uses_nccl else "cpu")
        has_scores = torch.tensor(int(self._scores is not None), device=self.confusion.device)
        dist.all_reduce(has_scores, group=process_group)
        dist.all_reduce(self.confusion, group=process_group)
        dist.all_reduce(self._boundary, group=process_group)
        self.images.all_gather(process_group)
        if has_scores:
            dist.all_reduce(self._histograms().counts, group=process_group)

    def compute(self) -> dict[str, Any]:
        """Compute all measures from the counters.

        Returns:
            A dictionary of floats in 0..1, NaN where undefined, unless another type is named:

            - ``mean_iou``, ``mean_accuracy``, ``overall_accuracy``, ``frequency_weighted_iou``;
            - ``mean_iou_image``: mean over images of the mean IoU over the classes that the
              image's labels contain;
            - ``per_category_iou``, ``per_category_accuracy`` (the recall),
              ``per_category_precision``: float64 arrays [K];
            - ``per_category_pixels``: int64 array [K] of labelled pixels;
            - ``mean_iou_<group>`` and ``mean_accuracy_<group>`` for every group;

            where ``boundary_iou`` is set, ``mean_boundary_iou``, ``mean_boundary_iou_<group>`` and
            ``per_category_boundary_iou``, float64 array [K];

            and, where logits were given:

            - ``pixel_auc``: mean one-versus-one AUC over ordered pairs of present classes;
            - ``pixel_auc_<group>``: the same over the pairs whose scored class is in the group;
            - ``pixel_auc_error_bound``: the most by which binning can have moved ``pixel_auc``;
            - ``pixel_auc_matrix``: float64 array [K, K], row the class scored, column the class of
              the negatives.
        """
        confusion = self.confusion.cpu().double()
        hit, labelled, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
        iou = hit / (labelled + predicted - hit)
        accuracy = hit / labelled
        image_iou = [value for value in self.images.mean_iou().tolist() if not math.isnan(value)]
        result = {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": accuracy.nanmean().item(),
            "overall_accuracy": (hit.sum() / labelled.sum()).item(),
            "frequency_weighted_iou": ((labelled * iou).nansum() / labelled.sum()).item(),
            # fsum is exact, so the order in which ranks were gathered does not matter.
            "mean_iou_image": math.fsum(image_iou) / len(image_iou) if image_iou else math.nan,
            "per_category_iou": iou.numpy(),
            "per_category_accuracy": accuracy.numpy(),
            "per_category_precision": (hit / predicted).numpy(),
            "per_category_pixels": self.confusion.sum(dim=1).cpu().numpy(),
        }
        for name, ids in self.groups.items():
            result[f"mean_iou_{name}"] = iou[ids].nanmean().item()
            result[f"mean_accuracy_{name}"] = accuracy[ids].nanmean().item()
        if self.boundary_iou:
            both, in_label, in_prediction = self._boundary.cpu().double()
            boundary = both / (in_label + in_prediction - both)
            result["mean_boundary_iou"] = boundary.nanmean().item()
            for name, ids in self.groups.items():
                result[f"mean_boundary_iou_{name}"] = boundary[ids].nanmean().item()
            result["per_category_boundary_iou"] = boundary.numpy()
        if self._scores is not None:
            matrix, bound = self._scores.auc()
            result["pixel_auc"] = matrix.nanmean().item()
            for name, ids in self.groups.items():
                result[f"pixel_auc_{name}"] = matrix[ids].nanmean().item()
            result["pixel_auc_error_bound"] = bound.nanmean().item()
            result["pixel_auc_matrix"] = matrix.numpy()
        return result

    def _count(self, prediction: Tensor, label: Tensor, void: Tensor) -> None:
        """Add one image, given as three maps [H, W], to the counters."""
        size = self.num_labels**2
        # Void pixels fall behind the K * K cells that are kept.
        cells = torch.add(prediction, label, alpha=self.num_labels).add_(void, alpha=size)
        confusion = torch.bincount(cells.flatten(), minlength=size)[:size].view_as(self.confusion)
        self.confusion += confusion
        self.images.append(
            torch.stack([confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)])
        )
        if self.boundary_iou:
            self._boundary += boundary_counts(prediction, label, void, self.num_labels)

    def _histograms(self) -> ScoreHistograms:
        """Return the score histograms, made at their first use, on the device of the counters."""
        if self._scores is None:
            self._scores = ScoreHistograms(self.num_labels, self.max_scores)
        self._scores.counts = self._scores.counts.to(self.confusion.device)
        return self._scores

    def _move(self, device: torch.device | str) -> None:
        self.confusion = self.confusion.to(device)
        self._boundary = self._boundary.to(device)

    def _check_shapes(self, output: Tensor, labels: Tensor, is_logits: bool) -> None:
        if labels.ndim != 3 or labels.is_floating_point():
            raise InputError(
                f"expected integer labels [B, H, W], got {labels.dtype} {list(labels.shape)}"
            )
        if is_logits:
            if output.ndim != 4 or output.shape[:2] != (len(labels), self.num_labels):
                raise InputError(
                    f"expected logits [{len(labels)}, {self.num_labels}, h, w] for labels "
                    f"{list(labels.shape)}, got {list(output.shape)}"
                )
        elif output.shape != labels.shape:
            raise InputError(
                f"expected predictions of the labels' size {list(labels.shape)}, "
                f"got {list(output.shape)}; resize them first"
            )

    def _checked_ids(self, ids: Tensor, void: Tensor, name: str) -> Tensor:
        """Return class ids as int32, in 0..K-1 also where void."""
        outside = self._outside(ids)
        if outside is not None:
            ids = ids.masked_fill(void, 0)
            outside = self._outside(ids)
        if outside is not None:
            void_too = f" or ignore_index {self.ignore_index}" if name == "labels" else ""
            raise InputError(
                f"expected {name} in 0..{self.num_labels - 1}{void_too}, got {outside}; "
                "check num_labels and how raw ids become class ids"
            )
        return ids.int()

    def _outside(self, ids: Tensor) -> int | None:
        """Find an id outside 0..K-1, if there is one."""
        low, high = (int(bound) for bound in ids.aminmax()) if ids.numel() else (0, 0)
        if low < 0:
            return low
        return high if high >= self.num_labels else None


def upsampled_argmax(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Find the class of the largest upsampled logit, without holding all upsampled logits.

    Equals ``F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(0)``.

    Args:
        logits: Float tensor [K, h, w].
        size: Height H and width W of the label map.

    Returns:
        int64 tensor [H, W].
    """
    height, width = size
    chunk = max(1, _CHUNK_PIXELS // (height * width))
    best = torch.full((height, width), -torch.inf, device=logits.device)
    winner = torch.zeros(height, width, dtype=torch.int64, device=logits.device)
    for start in range(0, len(logits), chunk):
        part = logits[None, start : start + chunk].float()
        score, index = F.interpolate(part, (height, width), mode="bilinear")[0].max(dim=0)
        better = score > best
        best = torch.where(better, score, best)
        winner = torch.where(better, index + start, winner)
    return winner
