import numpy as np
import pytest
from PIL import Image

from aucseg_hf.colors import _perceived, _separation, color_map, colorize, overlay
from aucseg_hf.errors import InputError

COLORS = np.array([[10, 20, 30], [200, 100, 0]], dtype=np.uint8)


def test_oklab_of_known_colors():
    white, black, red = _perceived(np.array([[255] * 3, [0] * 3, [255, 0, 0]], dtype=np.uint8))
    np.testing.assert_allclose(white, [[1, 0, 0]] * 4, atol=1e-3)
    np.testing.assert_allclose(black, 0, atol=1e-12)
    np.testing.assert_allclose(red[0], [0.62796, 0.22486, 0.12585], atol=1e-4)


def test_simulated_color_blindness_confuses_red_and_green_of_one_lightness():
    red, green = _perceived(np.array([[200, 60, 0], [110, 115, 0]], dtype=np.uint8))
    normal, _, deuteranope, _ = np.linalg.norm(red - green, axis=-1)
    assert deuteranope < normal / 3


@pytest.mark.parametrize(("num_labels", "separation"), [(11, 0.07), (50, 0.04), (150, 0.02)])
def test_colors_differ_for_every_kind_of_vision_and_from_void(num_labels, separation):
    colors = color_map(num_labels)
    assert colors.shape == (num_labels, 3)
    assert colors.dtype == np.uint8
    seen = _perceived(np.vstack([colors, [[0, 0, 0]]]))
    nearest = min(_separation(seen[:k], seen[k : k + 1]).min() for k in range(1, num_labels + 1))
    assert nearest > separation


def test_colors_of_a_class_do_not_depend_on_the_number_of_classes():
    np.testing.assert_array_equal(color_map(30)[:9], color_map(9))
    np.testing.assert_array_equal(color_map(3), [[0, 114, 178], [230, 159, 0], [0, 158, 115]])


def test_given_palette_is_kept():
    np.testing.assert_array_equal(
        color_map(2, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]), [[1, 2, 3], [4, 5, 6]]
    )
    with pytest.raises(InputError, match="at least 4 colours, got 3"):
        color_map(4, [[0, 0, 0]] * 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_colorize_paints_void_black(dtype):
    painted = np.array(colorize(np.array([[0, 1], [255, 2]], dtype=dtype), COLORS))
    np.testing.assert_array_equal(painted, [[[10, 20, 30], [200, 100, 0]], [[0, 0, 0], [0, 0, 0]]])


def test_overlay_blends_classes_and_spares_void():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    blended = overlay(Image.fromarray(image), np.array([[0, 1, 255]]), COLORS, alpha=0.5)
    np.testing.assert_array_equal(
        np.array(blended), [[[55, 60, 65], [150, 100, 50], [100, 100, 100]]]
    )
    only_color = overlay(image, np.array([[0, 1, 255]]), COLORS, alpha=1.0)
    np.testing.assert_array_equal(np.array(only_color)[0, :2], COLORS)


def test_overlay_names_bad_input():
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"size \[2, 3\], got \[3, 2\]"):
        overlay(image, np.zeros((3, 2), dtype=int), COLORS)
    with pytest.raises(InputError, match=r"alpha in 0\.\.1, got 1\.5"):
        overlay(image, np.zeros((2, 3), dtype=int), COLORS, alpha=1.5)
