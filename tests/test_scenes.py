import subprocess
import sys

import numpy as np
import pytest

from aucseg_hf.data.scenes import (
    CLASS_NAMES,
    PALETTE,
    SPLIT_SIZES,
    contact_sheet,
    draw_scene,
)
from aucseg_hf.errors import InputError

TAIL = {"traffic light", "traffic sign", "bicycle", "traffic cone"}
MIDDLE = {"fence", "pole", "person"}
VOID = 255


@pytest.fixture(scope="module")
def train_counts():
    # [scenes, 256] pixels of every label value in the whole training split, at 64 pixels.
    labels = (draw_scene(i, size=64)[1] for i in range(SPLIT_SIZES["train"]))
    return np.stack([np.bincount(label.ravel(), minlength=256) for label in labels])


def test_shares_are_long_tailed(train_counts):
    pixels = train_counts[:, : len(CLASS_NAMES)].sum(0)
    share = dict(zip(CLASS_NAMES, pixels / pixels.sum(), strict=True))
    assert {name for name in CLASS_NAMES if share[name] <= 0.0053} == TAIL
    assert {name for name in CLASS_NAMES if 0.0053 < share[name] < 0.019} == MIDDLE
    assert max(share.values()) / min(share.values()) >= 100


def test_tail_classes_are_in_few_scenes_and_head_classes_in_most(train_counts):
    present = dict(zip(CLASS_NAMES, (train_counts > 0).mean(0), strict=False))
    assert all(0.15 <= present[name] <= 0.35 for name in TAIL)
    assert all(present[name] >= 0.9 for name in set(CLASS_NAMES) - TAIL)


def test_tail_objects_are_large_enough_to_learn(train_counts):
    for name in TAIL:
        pixels = train_counts[:, CLASS_NAMES.index(name)]
        # At 128 pixels four times as many: about 10 x 10 or more.
        assert np.median(pixels[pixels > 0]) >= 25


def test_labels_are_class_ids_or_void(train_counts):
    values = set(np.flatnonzero(train_counts.sum(0)).tolist())
    assert values == {*range(len(CLASS_NAMES)), VOID}
    assert len(PALETTE) == len(set(PALETTE)) == len(CLASS_NAMES)


@pytest.mark.parametrize("size", [32, 128, 300])
def test_void_contours_keep_their_share_at_every_size(size):
    void = np.mean([(draw_scene(i, size=size)[1] == VOID).mean() for i in range(12)])
    assert 0.03 <= void <= 0.08


def test_void_lies_on_class_borders():
    labels = draw_scene(3)[1]
    # Within two pixels of every void pixel there are at least two classes.
    padded = np.pad(labels, 2, constant_values=VOID)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))[labels == VOID]
    classes = [len(set(w.ravel().tolist()) - {VOID}) for w in windows]
    assert np.mean(np.array(classes) >= 2) > 0.97


def test_same_key_gives_the_same_scene_in_another_process():
    image, labels = draw_scene(7, split="val", seed=3, size=(48, 64))
    code = (
        "import sys; from aucseg_hf.data.scenes import draw_scene;"
        "image, labels = draw_scene(7, split='val', seed=3, size=(48, 64));"
        "sys.stdout.buffer.write(image.tobytes() + labels.tobytes())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert answer == image.tobytes() + labels.tobytes()


def test_scenes_do_not_depend_on_the_order_of_drawing():
    first = draw_scene(5, size=64)
    draw_scene(6, size=64)
    for a, b in zip(first, draw_scene(5, size=64), strict=True):
        np.testing.assert_array_equal(a, b)


def test_indices_splits_and_seeds_give_different_scenes():
    keys = [
        dict(index=i, split=split, seed=seed)
        for i in (0, 1, 2)
        for split in SPLIT_SIZES
        for seed in (0, 1)
    ]
    labels = [draw_scene(**key, size=64)[1] for key in keys]
    for i, a in enumerate(labels):
        for b in labels[:i]:
            assert np.mean(a != b) > 0.1


@pytest.mark.parametrize(("small", "factor"), [(64, 2), (128, 2), (128, 3), ((96, 192), 2)])
def test_composition_is_the_same_at_every_size(small, factor):
    large = small * factor if isinstance(small, int) else tuple(factor * n for n in small)
    for i in range(4):
        image, labels = draw_scene(i, size=small)
        big_image, big_labels = draw_scene(i, size=large)
        big_labels = big_labels[factor // 2 :: factor, factor // 2 :: factor]
        known = (labels != VOID) & (big_labels != VOID)
        assert known.mean() > 0.85
        assert np.mean(labels[known] == big_labels[known]) > 0.97
        height, width = labels.shape
        blocks = big_image.reshape(height, factor, width, factor, 3).mean((1, 3))
        assert np.abs(blocks - image).mean() < 12


@pytest.mark.parametrize("size", [(32, 200), (200, 32), (33, 47)])
def test_size_is_height_and_width(size):
    image, labels = draw_scene(0, size=size)
    assert image.shape == (*size, 3)
    assert labels.shape == size
    # The street is laid out for the shape asked for: sky above, road below.
    assert np.mean(labels[0] == CLASS_NAMES.index("road")) == 0
    assert np.mean(labels[-1] == CLASS_NAMES.index("road")) > 0.3


def test_lighting_differs_between_scenes():
    brightness = [draw_scene(i, size=32)[0].mean() for i in range(60)]
    assert np.std(brightness) > 12


def test_tail_objects_share_colours_with_head_classes():
    # By the colour of a pixel alone, most of a sign is more likely a car or a house.
    scenes = [draw_scene(i) for i in range(60)]
    counts = {}
    for name in ("traffic sign", "car", "building"):
        kind = CLASS_NAMES.index(name)
        pixels = np.concatenate([image[labels == kind] for image, labels in scenes])
        counts[name] = np.histogramdd(pixels, bins=8, range=[(0, 256)] * 3)[0]
    mistaken = counts["car"] + counts["building"] > counts["traffic sign"]
    assert counts["traffic sign"][mistaken].sum() > 0.5 * counts["traffic sign"].sum()


def test_index_may_exceed_the_split_size():
    assert np.mean(draw_scene(10**6, size=64)[1] != draw_scene(0, size=64)[1]) > 0.1


def test_contact_sheet_shows_images_beside_their_coloured_labels():
    sheet = np.asarray(contact_sheet(num_scenes=5, size=64).convert("RGB")).astype(int)
    assert sheet.shape == (2 * 64 + 44, 8 * 64, 3)
    image, labels = draw_scene(4, size=64)  # the first of the second row
    assert np.abs(sheet[64:128, :64] - image).mean() < 16
    road = labels == CLASS_NAMES.index("road")
    assert np.abs(sheet[64:128, 64:128][road] - PALETTE[0]).max() < 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(index=0, split="test"), r"one of \['train', 'val'\], got 'test'"),
        (dict(index=-1), "index and seed >= 0, got index -1 and seed 0"),
        (dict(index=0, seed=-2), "got index 0 and seed -2"),
        (dict(index=0, size=31), "at least 32 pixels, got 31 x 31"),
        (dict(index=0, size=(64, 16)), "at least 32 pixels, got 64 x 16"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        draw_scene(**arguments)
