"""The measures as text: a table for the terminal, and plain values for JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from aucseg_hf.errors import InputError

_OTHER_MEASURES = {
    "overall_accuracy": "overall accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_iou_image": "mean IoU within images",
    "mean_boundary_iou": "boundary IoU",
}


def to_jsonable(value: Any) -> Any:
    """Turn measures into what ``json.dump`` takes.

    Args:
        value: Numbers, arrays and tensors, also nested in mappings and sequences.

    Returns:
        The same with lists for arrays, Python numbers, and None for NaN.
    """
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return to_jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def format_report(
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    groups: Mapping[str, Iterable[int]] | None = None,
    intervals: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Write the measures as a plain-text table for the terminal.

    Args:
        metrics: Result of :meth:`aucseg_hf.metrics.SegmentationMetrics.compute`.
        class_names: Name of every class, in the order of the ids.
        groups: Class ids by group name, as given to the metrics.
        intervals: Result of :func:`aucseg_hf.bootstrap.confidence_intervals`, to show beside IoU.

    Returns:
        One line per class (id, name, group, share of labelled pixels, IoU, accuracy, precision),
        one line for all classes and one per group, then the other measures of all classes; all
        numbers but the pixel AUC (0..1) in percent.

    Raises:
        InputError: The number of names is not the number of classes.
    """
    iou = metrics["per_category_iou"]
    if len(class_names) != len(iou):
        raise InputError(f"expected {len(iou)} class names, got {len(class_names)}")
    group_of = {int(i): name for name, ids in (groups or {}).items() for i in ids}
    share = metrics["per_category_pixels"] / max(1, metrics["per_category_pixels"].sum())
    name_width = max(len("class"), *(len(name) for name in class_names))
    group_width = max(len("group"), *(len(name) for name in group_of.values()), 0)
    interval_titles = f"{'from':>9}{'to':>9}" if intervals else ""

    header = f"{'id':>4}  {'class':<{name_width}}  {'group':<{group_width}}{'pixels %':>9}"
    header += f"{'IoU %':>9}{interval_titles}{'acc %':>9}{'prec %':>9}"
    lines = [header, "-" * len(header)]
    for i, name in enumerate(class_names):
        values = [share[i], iou[i]]
        values += [*intervals["per_category_iou"][:, i]] if intervals else []
        values += [metrics[f"per_category_{key}"][i] for key in ("accuracy", "precision")]
        row = f"{i:>4}  {name:<{name_width}}  {group_of.get(i, ''):<{group_width}}"
        lines.append(row + "".join(_cell(value) for value in values))

    width = max(len("overall"), *(len(name) for name in groups or ()), 0)
    titles = f"{'mIoU %':>9}{interval_titles}{'mAcc %':>9}{'pixel AUC':>11}"
    lines += [lines[1], f"{'':<{width}}{titles}"]
    for name in ("overall", *(groups or ())):
        suffix = "" if name == "overall" else f"_{name}"
        values = [metrics[f"mean_iou{suffix}"]]
        values += [*intervals[f"mean_iou{suffix}"]] if intervals else []
        values += [metrics[f"mean_accuracy{suffix}"]]
        auc = metrics.get(f"pixel_auc{suffix}", math.nan)
        row = "".join(_cell(value) for value in values)
        row += f"{'-':>11}" if math.isnan(auc) else f"{auc:>11.4f}"
        lines.append(f"{name:<{width}}{row}")
    for key, title in _OTHER_MEASURES.items():
        if key in metrics:
            lines.append(f"{title:<27}{_cell(metrics[key])} %")
    return "\n".join(lines)


def _cell(share: float) -> str:
    return f"{'-':>9}" if math.isnan(share) else f"{100 * share:>9.2f}"
