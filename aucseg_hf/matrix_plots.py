"""Pictures of class-by-class matrices: confusion and pixel AUC."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from aucseg_hf.errors import InputError

_MOST_WITH_NUMBERS = 20
_LONGEST_NAME = 24


def plot_confusion(
    confusion: np.ndarray, class_names: Sequence[str], *, title: str = "Confusion"
) -> Figure:
    """Draw into which classes the pixels of every class went.

    Args:
        confusion: Array [K, K] of pixels: row label, column prediction.
        class_names: Name of every class.
        title: Title of the figure.

    Returns:
        A figure of the matrix with rows that sum to 100 %; rows of absent classes are grey. Colours
        follow the square root of the share, so that rare confusions show.

    Raises:
        InputError: The matrix is not K x K.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        share = 100 * confusion / confusion.sum(axis=1, keepdims=True)
    return _draw(
        share,
        class_names,
        title,
        ("predicted class", "class in the labels", "% of the class's pixels"),
        PowerNorm(0.5, 0, 100),
        "{:.0f}",
    )


def plot_pixel_auc(
    auc: np.ndarray, class_names: Sequence[str], *, title: str = "Pixel AUC"
) -> Figure:
    """Draw how well every class's score ranks its pixels above those of every other class.

    Args:
        auc: Array [K, K] such as ``pixel_auc_matrix``: row the class scored, column the class of
            the negatives, NaN on the diagonal and where a class is absent.
        class_names: Name of every class.
        title: Title of the figure.

    Returns:
        A figure of the matrix; unknown cells are grey, and all below chance, 0.5, look alike.

    Raises:
        InputError: The matrix is not K x K.
    """
    labels = ("class of the negative pixels", "class scored", "AUC")
    return _draw(np.asarray(auc), class_names, title, labels, Normalize(0.5, 1), "{:.2f}")


def _draw(
    matrix: np.ndarray,
    class_names: Sequence[str],
    title: str,
    labels: tuple[str, str, str],
    norm: Normalize,
    number_format: str,
) -> Figure:
    """Draw a matrix with names on both axes; ``labels`` are those of x, y and the colours."""
    num_labels = len(class_names)
    if matrix.shape != (num_labels, num_labels):
        raise InputError(
            f"expected a matrix [{num_labels}, {num_labels}] for as many class names, "
            f"got {list(matrix.shape)}"
        )
    # Inches a row; its name is as high as fits, at most 8 points.
    cell = float(np.clip(8 / num_labels, 0.09, 0.42))
    font_size = min(8.0, 0.85 * 72 * cell)
    names = [_shorten(name) for name in class_names]
    margin = 0.6 + 0.6 * font_size / 72 * max(len(name) for name in names)
    side = max(3.0, num_labels * cell)
    figure = Figure(
        figsize=(side + margin + 1.0, side + margin + 0.3), dpi=130, layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    axis = figure.subplots()
    colors = colormaps["viridis"].with_extremes(bad="0.85")
    image = axis.imshow(matrix, norm=norm, cmap=colors, interpolation="nearest")
    axis.set_xticks(range(num_labels), names, fontsize=font_size, rotation=90)
    axis.set_yticks(range(num_labels), names, fontsize=font_size)
    axis.tick_params(length=0, pad=2)
    axis.set_xlabel(labels[0], fontsize=9)
    axis.set_ylabel(labels[1], fontsize=9)
    extend = "min" if norm.vmin > 0 else "neither"
    bar = figure.colorbar(image, ax=axis, shrink=0.6, aspect=30, extend=extend)
    bar.set_label(labels[2], fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if num_labels <= _MOST_WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                dark = norm(value) < 0.6
                axis.text(
                    column,
                    row,
                    number_format.format(value),
                    fontsize=6.5,
                    color="white" if dark else "black",
                    ha="center",
                    va="center",
                )
    return figure


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip(" ,;") + "…"
