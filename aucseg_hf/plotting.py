"""Pictures of segmentations and of results; every function returns what it drew, unsaved."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from aucseg_hf.errors import InputError

VOID_COLOR = (0, 0, 0)
# Okabe and Ito's colours for all kinds of colour vision, without black, which stands for void.
_SAFE_COLORS = np.array(
    [[0, 114, 178], [230, 159, 0], [0, 158, 115], [213, 94, 0]]
    + [[86, 180, 233], [204, 121, 167], [240, 228, 66]],
    dtype=np.uint8,
)
# Linear RGB as seen by normal eyes and without red, green or blue cones (Machado, Oliveira and
# Fernandes 2009).
_VISIONS = np.reshape(
    [1, 0, 0, 0, 1, 0, 0, 0, 1]
    + [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998]
    + [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881]
    + [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900],
    (4, 3, 3),
)
# Linear RGB to cone responses, and their cube roots to OKLab (Ottosson 2020).
_RGB_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_CONES_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_ROWS_PER_COLUMN = 52
_LOSSES = {"loss": "total", "loss_ce": "cross-entropy", "loss_auc": "AUC"}
_MEAN_IOUS = {
    "eval_mean_iou": "all classes",
    "eval_mean_iou_head": "head",
    "eval_mean_iou_middle": "middle",
    "eval_mean_iou_tail": "tail",
}


def color_map(num_labels: int, palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Choose a colour for every class.

    Without a palette the first seven colours are Okabe and Ito's. Each further one is the colour,
    out of a regular grid, that lies farthest from all before it and from the void colour in OKLab,
    distances being the smallest over normal vision and three simulated colour-vision deficiencies.

    Args:
        num_labels: Number of classes K.
        palette: RGB triples in 0..255, at least K of them.

    Returns:
        uint8 array [K, 3].

    Raises:
        InputError: The palette has fewer than K colours.
    """
    if palette is not None:
        if len(palette) < num_labels:
            raise InputError(
                f"expected a palette of at least {num_labels} colours, got {len(palette)}"
            )
        return np.array(palette[:num_labels], dtype=np.uint8)
    levels = np.linspace(0, 255, 13).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    # Neither so dark that it looks like void nor so pale that it looks like paper.
    lightness = _perceived(grid)[:, 0, 0]
    grid = grid[(lightness > 0.35) & (lightness < 0.95)]
    colors = list(_SAFE_COLORS[:num_labels])
    seen = _perceived(grid)
    taken = _perceived(np.array([*colors, VOID_COLOR], dtype=np.uint8))
    distance = np.min([_separation(seen, point[None]) for point in taken], axis=0)
    while len(colors) < num_labels:
        best = int(distance.argmax())
        colors.append(grid[best])
        distance = np.minimum(distance, _separation(seen, seen[best : best + 1]))
    return np.array(colors, dtype=np.uint8)


def _perceived(colors: np.ndarray) -> np.ndarray:
    """Convert uint8 sRGB [N, 3] to OKLab under each kind of colour vision, [N, 4, 3]."""
    value = colors / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(linear @ vision.T, 0, 1) for vision in _VISIONS], axis=1)
    return np.cbrt(seen @ _RGB_TO_CONES.T) @ _CONES_TO_OKLAB.T


def _separation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the smallest OKLab distance over the kinds of colour vision, [N]."""
    return np.linalg.norm(first - second, axis=-1).min(axis=-1)


def colorize(label_map: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Draw a label map.

    Args:
        label_map: Integer array [H, W]; ids outside 0..K-1, such as 255, are void and black.
        colors: uint8 array [K, 3].

    Returns:
        RGB image of the label map's size.
    """
    label_map = np.asarray(label_map)
    table = np.vstack([colors, VOID_COLOR]).astype(np.uint8)
    return Image.fromarray(table[np.where(_is_void(label_map, colors), len(colors), label_map)])


def overlay(
    image: Image.Image | np.ndarray,
    label_map: np.ndarray,
    colors: np.ndarray,
    alpha: float = 0.5,
) -> Image.Image:
    """Lay the class colours over an image; void pixels show the image alone.

    Args:
        image: PIL image or uint8 array [H, W, 3].
        label_map: Integer array [H, W].
        colors: uint8 array [K, 3].
        alpha: Share of the class colour in 0..1.

    Returns:
        RGB image of the image's size.

    Raises:
        InputError: Image and label map differ in size, or ``alpha`` is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"expected alpha in 0..1, got {alpha}")
    image = _as_rgb(image)
    _check_size(image, label_map)
    blended = Image.blend(image, colorize(label_map, colors), alpha)
    return Image.composite(image, blended, Image.fromarray(_is_void(label_map, colors)))


def _check_size(image: Image.Image, label_map: np.ndarray) -> None:
    if np.shape(label_map) != (image.height, image.width):
        raise InputError(
            f"expected a label map of the image's size {[image.height, image.width]}, "
            f"got {list(np.shape(label_map))}"
        )


def _is_void(label_map: np.ndarray, colors: np.ndarray) -> np.ndarray:
    label_map = np.asarray(label_map)
    return (label_map < 0) | (label_map >= len(colors))


def _as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image))
    return image.convert("RGB")


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
    # With several columns one row is spare for a headline that moves on to the next column.
    height = math.ceil(len(rows) / num_columns) + (num_columns > 1)
    columns: list[list[tuple[str, np.ndarray, float | None]]] = [[]]
    for row in rows:
        is_headline = row[2] is None
        if len(columns[-1]) >= height - is_headline:
            columns.append([])
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
    pictures = [_as_rgb(image) for image in images]
    for maps in (labels, predictions):
        for picture, label_map in zip(pictures, maps, strict=True):
            _check_size(picture, label_map)
    width = 3.2
    heights = [width * picture.height / picture.width for picture in pictures]

    occurring = np.unique(np.concatenate([np.unique(m) for m in (*labels, *predictions)]))
    void = _is_void(occurring, colors)
    handles = [
        Patch(facecolor=colors[i] / 255, edgecolor="0.3", label=_shorten(class_names[i]))
        for i in occurring[~void]
    ]
    if void.any():
        handles.append(Patch(facecolor=np.divide(VOID_COLOR, 255), edgecolor="0.3", label="void"))
    longest = max(len(handle.get_label()) for handle in handles)
    # Eight-point text is about 0.065 inch a letter; a box with its gaps takes half an inch.
    legend_columns = min(len(handles), int(3 * width / (0.5 + 0.065 * longest)))
    legend_height = 0.175 * math.ceil(len(handles) / legend_columns) + 0.2

    figure = Figure(figsize=(3 * width, sum(heights) + legend_height + 0.3), layout="constrained")
    axes = figure.subplots(len(pictures), 3, squeeze=False, height_ratios=heights)
    for row, picture, label, prediction in zip(axes, pictures, labels, predictions, strict=True):
        drawn = (picture, colorize(label, colors), colorize(prediction, colors))
        for axis, content in zip(row, drawn, strict=True):
            axis.imshow(content, interpolation="nearest" if content is not picture else None)
            axis.set_axis_off()
    for axis, name in zip(axes[0], ("image", "label", "prediction"), strict=True):
        axis.set_title(name, fontsize=10)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns,
        fontsize=8,
        frameon=False,
    )
    return figure
