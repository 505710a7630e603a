"""Pictures of segmentations and of results; every function returns what it drew, unsaved."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from aucseg_hf.colors import VOID_COLOR, color_map, colorize, is_void, rgb_of_size
from aucseg_hf.errors import InputError

_ROWS_PER_COLUMN = 52
_LOSSES = {"loss": "total", "loss_ce": "cross-entropy", "loss_auc": "AUC"}
_MEAN_IOUS = {
    "eval_mean_iou": "all classes",
    "eval_mean_iou_head": "head",
    "eval_mean_iou_middle": "middle",
    "eval_mean_iou_tail": "tail",
}


def plot_class_iou(
    per_class: Sequence[float],
    class_names: Sequence[str],
    groups: Mapping[str, Iterable[int]] | None = None,
    *,
    title: str = "IoU per class",
) -> Figure:
    """Draw one bar per class, by group and from best to worst within each group.

    Args:
        per_class: IoU (or another share in 0..1) of every class, NaN where it has none.
        class_names: Name of every class.
        groups: Class ids by group name, such as head, middle and tail. Classes in no group follow
            under "other"; without groups all classes stand together.
        title: Title of the figure.

    Returns:
        A figure whose bars run on in a next column of axes after about 50 classes.

    Raises:
        InputError: The number of names is not the number of values.
    """
    values = 100 * np.asarray(per_class, dtype=float)
    if len(class_names) != len(values):
        raise InputError(f"expected {len(values)} class names, got {len(class_names)}")
    members = {name: list(ids) for name, ids in (groups or {}).items()}
    rest = sorted(set(range(len(values))) - {i for ids in members.values() for i in ids})
    members["other" if groups else "all classes"] = rest
    members = {name: ids for name, ids in members.items() if ids}

    # A row is either a group's headline (text, colour, None) or a class (name, colour, value).
    rows: list[tuple[str, np.ndarray, float | None]] = []
    for (name, ids), color in zip(members.items(), color_map(len(members)) / 255, strict=True):
        known = values[ids][~np.isnan(values[ids])]
        mean = f", mean {known.mean():.1f}" if len(known) else ""
        rows.append((f"{name} ({len(ids)}{mean})", color, None))
        ranked = sorted(ids, key=lambda i: math.inf if math.isnan(values[i]) else -values[i])
        rows += [(_shorten(class_names[i]), color, float(values[i])) for i in ranked]

    num_columns = math.ceil(len(rows) / _ROWS_PER_COLUMN)
    # With several columns one row is spare for a headline that moves on to the next column, or is
    # repeated there.
    height = math.ceil(len(rows) / num_columns) + (num_columns > 1)
    columns: list[list[tuple[str, np.ndarray, float | None]]] = [[]]
    group = ""
    for row in rows:
        name, color, value = row
        if value is None:
            group = name.split(" (")[0]
        if len(columns[-1]) >= height - (value is None):
            columns.append([] if value is None else [(f"{group}, continued", color, None)])
        columns[-1].append(row)
    figure = Figure(
        figsize=(max(6.0, 4.2 * len(columns)), 0.9 + 0.19 * height), layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for column, axis in zip(columns, axes, strict=True):
        _draw_bars(axis, column, height)
    return figure


def _draw_bars(axis: Axes, rows: list[tuple[str, np.ndarray, float | None]], height: int) -> None:
    """Draw headlines and bars from the top of an axis that has room for ``height`` rows."""
    for y, (text, color, value) in enumerate(rows):
        if value is None:
            axis.text(1, y, text, fontsize=8, fontweight="bold", color=0.75 * color, va="center")
        elif math.isnan(value):
            axis.text(1, y, "absent", fontsize=7, color="0.5", va="center")
        else:
            axis.barh(y, value, height=0.72, color=color)
            axis.text(value + 1, y, f"{value:.1f}", fontsize=7, va="center")
    named = [(y, text) for y, (text, _, value) in enumerate(rows) if value is not None]
    axis.set_yticks([y for y, _ in named], [text for _, text in named], fontsize=8)
    axis.set(xlim=(0, 110), ylim=(height - 0.4, -0.6), xticks=range(0, 101, 25))
    axis.set_xlabel("%", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)


def _shorten(name: str, length: int = 26) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip(" ,;") + "…"


def plot_training_curves(
    log_history: Sequence[Mapping[str, Any]], *, title: str = "Training"
) -> Figure:
    """Draw the loss with its parts and the mean IoU with its groups against the training step.

    Args:
        log_history: ``TrainerState.log_history`` of transformers: dictionaries with ``step`` and
            any of ``loss``, ``loss_ce``, ``loss_auc``, ``eval_mean_iou``, ``eval_mean_iou_head``,
            ``eval_mean_iou_middle`` and ``eval_mean_iou_tail``.
        title: Title of the figure.

    Returns:
        A figure with a panel for the losses and one for the mean IoU, as far as they were logged.

    Raises:
        InputError: None of these values was logged.
    """
    colors = color_map(4) / 255
    panels = []
    for keys, label, scale in ((_LOSSES, "loss", 1), (_MEAN_IOUS, "mIoU (%)", 100)):
        curves = {}
        for key, name in keys.items():
            points = [(entry["step"], scale * entry[key]) for entry in log_history if key in entry]
            if points:
                curves[name] = np.array(points)
        if curves:
            panels.append((label, curves))
    if not panels:
        raise InputError(
            "expected a log history with loss or eval_mean_iou, got neither; "
            "train with logging or evaluation switched on"
        )
    figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axis, (label, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        # The whole is black and comes last, on top of its parts.
        for index, (name, points) in reversed(list(enumerate(curves.items()))):
            whole = name in ("total", "all classes")
            axis.plot(
                *points.T,
                color="black" if whole else colors[index - 1],
                linewidth=1.8 if whole else 1.3,
                marker="o" if len(points) <= 40 else None,
                markersize=3,
                label=name,
            )
        axis.set(xlabel="step", ylabel=label)
        axis.locator_params(axis="x", nbins=6)
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        handles, names = axis.get_legend_handles_labels()
        axis.legend(
            handles[::-1],
            names[::-1],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=4,
            frameon=False,
            fontsize=8,
        )
    return figure


def sample_grid(
    images: Sequence[Image.Image | np.ndarray],
    labels: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    colors: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Draw rows of image, label and prediction above a legend of the classes that occur.

    Args:
        images: PIL images or uint8 arrays [H, W, 3], of any sizes.
        labels: Integer arrays [H, W].
        predictions: Integer arrays [H, W].
        colors: uint8 array [K, 3].
        class_names: Name of every class.

    Returns:
        A figure with one row per image.

    Raises:
        InputError: There are no images, not as many labels and predictions as images, or a map has
            another size than its image.
    """
    if not images or not len(images) == len(labels) == len(predictions):
        raise InputError(
            "expected at least one image and as many labels and predictions, "
            f"got {len(images)}, {len(labels)} and {len(predictions)}"
        )
    pictures = [rgb_of_size(image, label) for image, label in zip(images, labels, strict=True)]
    for picture, prediction in zip(pictures, predictions, strict=True):
        rgb_of_size(picture, prediction)
    width = 3.2
    heights = [width * picture.height / picture.width for picture in pictures]

    occurring = np.unique(np.concatenate([np.unique(m) for m in (*labels, *predictions)]))
    void = is_void(occurring, colors)
    handles = [_patch(colors[i], class_names[i]) for i in occurring[~void]]
    if void.any():
        handles.append(_patch(VOID_COLOR, "void"))
    columns, legend_height = _legend_layout(handles, 3 * width)

    figure = Figure(figsize=(3 * width, sum(heights) + legend_height + 0.5), layout="constrained")
    axes = figure.subplots(len(pictures), 3, squeeze=False, height_ratios=heights)
    for row, picture, label, prediction in zip(axes, pictures, labels, predictions, strict=True):
        drawn = (picture, colorize(label, colors), colorize(prediction, colors))
        for axis, content in zip(row, drawn, strict=True):
            axis.imshow(content, interpolation="nearest" if content is not picture else None)
            axis.set_axis_off()
    for axis, name in zip(axes[0], ("image", "label", "prediction"), strict=True):
        axis.set_title(name, fontsize=10)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )
    return figure


def plot_legend(colors: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw the colour and the name of every class.

    Args:
        colors: uint8 array [K, 3].
        class_names: Name of every class.

    Returns:
        A figure as wide as the names need, in up to five columns.

    Raises:
        InputError: The number of names is not the number of colours.
    """
    if len(class_names) != len(colors):
        raise InputError(f"expected {len(colors)} class names, got {len(class_names)}")
    handles = [_patch(color, name) for color, name in zip(colors, class_names, strict=True)]
    columns, height = _legend_layout(handles, width=9.6)
    figure = Figure(figsize=(9.6, height))
    figure.legend(handles=handles, loc="center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _patch(color: Sequence[int], name: str) -> Patch:
    return Patch(facecolor=np.divide(color, 255), edgecolor="0.3", label=_shorten(name))


def _legend_layout(handles: Sequence[Patch], width: float) -> tuple[int, float]:
    """Number of columns of a legend that is `width` inches wide, and its height in inches."""
    longest = max(len(handle.get_label()) for handle in handles)
    # Eight-point text is about 0.065 inch a letter; a box with its gaps takes half an inch.
    columns = min(len(handles), int(width / (0.5 + 0.065 * longest)))
    return columns, 0.175 * math.ceil(len(handles) / columns) + 0.2
