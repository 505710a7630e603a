import io

import numpy as np
import PIL.Image
import pytest

from aucseg_hf.errors import InputError
from aucseg_hf.images import read_image

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)


def test_files_arrays_and_images_give_the_same_pixels(tmp_path):
    image = PIL.Image.fromarray(PIXELS)
    image.save(tmp_path / "image.png")
    for source in (image, PIXELS, tmp_path / "image.png", str(tmp_path / "image.png")):
        np.testing.assert_array_equal(np.asarray(read_image(source)), PIXELS)


def test_transparency_is_dropped():
    rgba = np.dstack([PIXELS, np.full((6, 8), 7, np.uint8)])
    for source in (rgba, PIL.Image.fromarray(rgba)):
        np.testing.assert_array_equal(np.asarray(read_image(source)), PIXELS)


def test_grey_images_have_three_equal_channels():
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 256 + 99)
    for source in (grey, PIL.Image.fromarray(grey), deep, deep.convert("I")):
        np.testing.assert_array_equal(np.asarray(read_image(source)), expected)


def test_cmyk_and_palette_images():
    cmyk = PIL.Image.new("CMYK", (4, 3), (255, 0, 0, 0))
    assert read_image(cmyk).getpixel((0, 0)) == (0, 255, 255)
    palette = PIL.Image.fromarray(PIXELS).quantize(4)
    np.testing.assert_array_equal(
        np.asarray(read_image(palette)), np.asarray(palette.convert("RGB"))
    )


def test_exif_rotation_is_applied(tmp_path):
    image = PIL.Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    for source in (tmp_path / "turned.png", PIL.Image.open(tmp_path / "turned.png")):
        np.testing.assert_array_equal(np.asarray(read_image(source)), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("array", [PIXELS[..., :2], PIXELS / 255, PIXELS[None], PIXELS[0, 0]])
def test_arrays_of_other_kinds(array):
    with pytest.raises(InputError, match="expected a uint8 array"):
        read_image(array)


def test_files_that_do_not_open(tmp_path):
    whole = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(whole, "png")
    cases = {"none.png": None, "text.png": b"no image", "half.png": whole.getvalue()[:-60]}
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


def test_an_image_that_pillow_takes_for_a_bomb(tmp_path, monkeypatch):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "large.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(InputError, match=r"large\.png.*limit"):
        read_image(tmp_path / "large.png")
