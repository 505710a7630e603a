import numpy as np
import pytest
from test_plotting import assert_readable, visible_texts

from aucseg_hf.errors import InputError
from aucseg_hf.matrix_plots import plot_confusion, plot_pixel_auc

NAN = np.nan


def names(count):
    return [
        f"swivel chair, office furniture {i}" if i % 9 == 0 else f"door {i}" for i in range(count)
    ]


def cells(figure):
    matrix = figure.axes[0]
    return {text.get_position(): text.get_text() for text in matrix.texts}


@pytest.mark.parametrize("count", [2, 13, 21, pytest.param(150, marks=pytest.mark.slow)], ids=str)
def test_no_text_overlaps(count):
    rng = np.random.default_rng(0)
    assert_readable(plot_confusion(rng.integers(0, 1000, (count, count)), names(count)))
    auc = rng.random((count, count))
    np.fill_diagonal(auc, NAN)
    figure = plot_pixel_auc(auc, names(count))
    assert_readable(figure)
    # Every class is named on both axes, long names not in full.
    shown = [text.get_text() for text in visible_texts(figure)]
    long = len(range(0, count, 9))
    assert sum(text.startswith("door ") for text in shown) == 2 * (count - long)
    assert shown.count("swivel chair, office fu…") == 2 * long


def test_confusion_shows_shares_of_the_labelled_pixels():
    figure = plot_confusion([[6, 3, 3], [0, 0, 0], [1, 0, 19]], ["road", "pole", "sky"])
    # (column, row) of the picture
    assert cells(figure) == {
        (0, 0): "50", (1, 0): "25", (2, 0): "25",
        (0, 2): "5", (1, 2): "0", (2, 2): "95",
    }  # fmt: skip
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(image.get_array().mask[1], [True] * 3)
    assert image.norm(25) == pytest.approx(0.5)


def test_pixel_auc_starts_at_chance():
    figure = plot_pixel_auc(np.array([[NAN, 0.75], [0.3, NAN]]), ["road", "pole"])
    assert cells(figure) == {(1, 0): "0.75", (0, 1): "0.30"}
    image = figure.axes[0].images[0]
    assert image.norm(0.75) == 0.5
    assert image.norm(0.3) < 0


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"matrix \[2, 2\] for as many class names, got \[3, 3\]"):
        plot_confusion(np.eye(3), ["road", "pole"])
