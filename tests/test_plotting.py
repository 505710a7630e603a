import math
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from aucseg_hf.colors import color_map, colorize
from aucseg_hf.errors import InputError
from aucseg_hf.plotting import (
    plot_class_iou,
    plot_legend,
    plot_training_curves,
    sample_grid,
)

COLORS = np.array([[10, 20, 30], [200, 100, 0]], dtype=np.uint8)


def visible_texts(figure):
    FigureCanvasAgg(figure).draw()
    # Axes keep tick labels outside their limits, and on a hidden axis, which are never drawn.
    ticks = {
        label
        for axes in figure.axes
        for axis, coordinate in ((axes.xaxis, 0), (axes.yaxis, 1))
        for label in axis.get_ticklabels(which="both")
        if not axes.axison
        or not min(axis.get_view_interval())
        <= label.get_position()[coordinate]
        <= max(axis.get_view_interval())
    }
    return [
        text
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and text not in ticks
    ]


def assert_readable(figure):
    """No two texts overlap and none leaves the figure."""
    texts = visible_texts(figure)
    boxes = [text.get_window_extent() for text in texts]
    for (a, first), (b, second) in combinations(zip(texts, boxes, strict=True), 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert width <= 0.5 or height <= 0.5, (a.get_text(), b.get_text())
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()


def test_class_bars_are_grouped_and_ranked():
    figure = plot_class_iou(
        [0.5, math.nan, 0.25, 0.75, 0.125],
        ["road", "bus", "pole", "sky", "car"],
        {"head": [0, 3], "tail": [1, 2]},
    )
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "sky",
        "road",
        "pole",
        "bus",
        "car",
    ]
    assert [bar.get_width() for bar in axis.patches] == [75, 50, 25, 12.5]
    assert [text.get_text() for text in axis.texts] == [
        "head (2, mean 62.5)",
        "75.0",
        "50.0",
        "tail (2, mean 25.0)",
        "25.0",
        "absent",
        "other (1, mean 12.5)",
        "12.5",
    ]
    head, tail = axis.patches[0].get_facecolor(), axis.patches[2].get_facecolor()
    assert axis.patches[1].get_facecolor() == head != tail
    with pytest.raises(InputError, match="expected 2 class names, got 1"):
        plot_class_iou([0.1, 0.2], ["a"])


@pytest.mark.parametrize("sizes", [(1, 0, 1), (3, 4, 4), (9, 17, 124), (49, 1, 100), (19, 29, 123)])
def test_class_bars_are_readable_and_complete(sizes):
    total = sum(sizes)
    values = np.random.default_rng(0).uniform(0, 1, total)
    values[0], values[-1] = math.nan, 1.0
    names = [f"{'very long name of a class ' * (i % 3)}{i}" for i in range(total)]
    ends = np.cumsum(sizes)
    groups = {
        name: list(range(end - size, end))
        for name, size, end in zip(("head", "middle", "tail"), sizes, ends, strict=True)
    }
    figure = plot_class_iou(values, names, groups)
    assert_readable(figure)
    assert sum(len(axis.patches) for axis in figure.axes) == total - 1
    assert sum(len(axis.get_yticks()) for axis in figure.axes) == total


LOG = [
    {"loss": 3.0, "loss_ce": 2.0, "loss_auc": 1.0, "learning_rate": 1e-4, "step": 10},
    {"loss": 1.5, "loss_ce": 1.0, "loss_auc": 0.5, "step": 20},
    {"eval_loss": 1.0, "eval_mean_iou": 0.25, "eval_mean_iou_tail": 0.125, "step": 20},
    {"train_runtime": 5.0, "step": 20},
]


def test_training_curves_show_what_was_logged():
    figure = plot_training_curves(LOG)
    losses, ious = (
        {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        for axis in figure.axes
    )
    assert losses == {
        "total": [[10, 3], [20, 1.5]],
        "cross-entropy": [[10, 2], [20, 1]],
        "AUC": [[10, 1], [20, 0.5]],
    }
    assert ious == {"all classes": [[20, 25]], "tail": [[20, 12.5]]}
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "total",
        "cross-entropy",
        "AUC",
    ]
    assert_readable(figure)


def test_training_curves_without_evaluation_and_without_anything():
    assert len(plot_training_curves(LOG[:2]).axes) == 1
    with pytest.raises(InputError, match="loss or eval_mean_iou"):
        plot_training_curves(LOG[3:])


def test_long_training_curves_are_readable():
    log = [
        {"loss": 1.0, "step": step, "eval_mean_iou": 0.4, "eval_mean_iou_head": 0.8}
        for step in range(1000, 160001, 1000)
    ]
    assert_readable(plot_training_curves(log))


def test_sample_grid_shows_the_maps_and_the_classes_that_occur():
    names = [f"class number {i}" for i in range(150)]
    colors = color_map(150)
    images = [np.full((20, 30, 3), 7, dtype=np.uint8), np.zeros((40, 10, 3), dtype=np.uint8)]
    labels = [np.full((20, 30), 3), np.full((40, 10), 149)]
    predictions = [np.full((20, 30), 5), np.full((40, 10), 149)]
    labels[0][0] = 255
    figure = sample_grid(images, labels, predictions, colors, names)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "class number 3",
        "class number 5",
        "class number 149",
        "void",
    ]
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    np.testing.assert_array_equal(shown[0], images[0])
    np.testing.assert_array_equal(shown[1], np.array(colorize(labels[0], colors)))
    np.testing.assert_array_equal(shown[2], np.broadcast_to(colors[5], (20, 30, 3)))
    np.testing.assert_array_equal(shown[5], np.broadcast_to(colors[149], (40, 10, 3)))
    assert_readable(figure)


def test_sample_grid_is_readable_with_150_long_names():
    labels = [np.arange(150).reshape(10, 15)] * 2
    images = [np.zeros((10, 15, 3), dtype=np.uint8)] * 2
    names = [f"a class with a very long name {i}" for i in range(150)]
    figure = sample_grid(images, labels, labels, color_map(150), names)
    assert_readable(figure)
    assert len(figure.legends[0].get_texts()) == 150


def test_sample_grid_names_bad_input():
    image, label = np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((2, 3), dtype=int)
    with pytest.raises(InputError, match="got 1, 1 and 0"):
        sample_grid([image], [label], [], COLORS, ["a", "b"])
    with pytest.raises(InputError, match="got 0, 0 and 0"):
        sample_grid([], [], [], COLORS, ["a", "b"])
    with pytest.raises(InputError, match=r"size \[2, 3\], got \[3, 2\]"):
        sample_grid([image], [label], [label.T], COLORS, ["a", "b"])


@pytest.mark.parametrize("num_labels", [1, 4, 13, 150, 171])
def test_legend_is_readable_and_complete(num_labels):
    names = [f"{'a class with a very long name ' * (i % 3)}{i}" for i in range(num_labels)]
    colors = color_map(num_labels)
    figure = plot_legend(colors, names)
    assert_readable(figure)
    handles = figure.legends[0].legend_handles
    np.testing.assert_allclose([handle.get_facecolor()[:3] for handle in handles], colors / 255)
    with pytest.raises(InputError, match=f"expected {num_labels} class names, got 0"):
        plot_legend(colors, [])
