import colorsys

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from aucseg_hf import TrainAugmentation
from aucseg_hf.data.augment import resize_crop, rotate_hue


def random_image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(4, 60), st.integers(4, 60)),
    st.tuples(st.integers(4, 120), st.integers(4, 120)),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_resized_crop_is_the_crop_of_the_resized_image(sides, size, place):
    image = random_image(*sides)
    shape = [1 + round(part * (side - 1)) for part, side in zip(place[:2], size, strict=True)]
    top, left = (
        round(part * (side - length))
        for part, side, length in zip(place[2:], size, shape, strict=True)
    )
    whole = F.resize(image.double(), list(size), antialias=True)
    expected = whole[:, top : top + shape[0], left : left + shape[1]]
    crop = resize_crop(image, size, (top, left), tuple(shape))
    # Pillow rounds after each of the two directions.
    assert (crop - expected).abs().max() <= 1.5


def test_labels_are_resized_as_the_nearest_pixel_of_the_same_centres():
    label = torch.randint(0, 9, (37, 53), dtype=torch.uint8)
    for factor in (0.61, 1.37):
        size = [round(37 * factor), round(53 * factor)]
        expected = F.resize(label[None], size, interpolation=InterpolationMode.NEAREST_EXACT)[0]
        augmentation = TrainAugmentation(tuple(size), (factor, factor), photometric=False)
        generator = torch.Generator().manual_seed(3)
        _, result = augmentation(label.expand(3, -1, -1), label, generator)
        assert torch.equal(result, expected) or torch.equal(result, expected.flip(1))


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.floats(-0.5, 0.5))
def test_hue_turns_as_colorsys_has_it(color, turn):
    turned = rotate_hue(torch.tensor(color, dtype=torch.uint8).view(3, 1, 1), turn).flatten()
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in color))
    expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
    assert np.abs(turned.numpy() - expected).max() <= 0.5 + 1e-3


def test_hue_equals_torchvision_up_to_rounding():
    image = random_image(64, 64)
    for turn in (-0.05, 0.02, 0.4):
        difference = rotate_hue(image, turn).int() - F.adjust_hue(image, turn).int()
        assert difference.abs().max() <= 1


def test_published_pieces_and_their_ranges():
    """The scales drawn fill 0.5..2, half of the images are flipped, colours change."""
    label = (torch.arange(64 * 64).view(64, 64) % 2).to(torch.uint8)
    ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(3, 64, 64).contiguous()
    augmentation = TrainAugmentation((16, 16))
    assert (augmentation.scale, augmentation.cat_max_ratio) == ((0.5, 2.0), 0.75)
    plain = TrainAugmentation((16, 16), photometric=False)
    steps, changed = [], 0
    for seed in range(300):
        image, _ = plain(ramp, label, torch.Generator().manual_seed(seed))
        colored, _ = augmentation(ramp, label, torch.Generator().manual_seed(seed))
        changed += not torch.equal(image, colored)
        # Levels a pixel along the ramp: 4 / scale, negative where flipped.
        steps.append((image[0, 8, 12].int() - image[0, 8, 4].int()).item() / 8)
    scales = 4 / np.abs(steps)
    assert 0.48 < scales.min() < 0.6
    assert 1.8 < scales.max() < 2.1
    assert 0.42 < np.mean(np.array(steps) < 0) < 0.58
    assert changed > 200  # each of three changes that show on grey with probability one half
