import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from aucseg_hf.errors import InputError
from aucseg_hf.memory_entry import (
    REPLACEMENTS,
    MemoryEntry,
    PixelCodec,
    find_boxes,
    fit_inside,
    margin_for,
    shrink,
    shrunk_size,
)

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def every_level() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(3, 16, 16)


def entry_used(uses: int) -> MemoryEntry:
    return MemoryEntry(torch.zeros(3, 1, 1), torch.ones(1, 1, dtype=torch.bool), 0, 0, (1, 1), uses)


def test_codec_restores_what_the_image_processor_computed():
    from transformers import SegformerImageProcessor

    processor = SegformerImageProcessor(do_resize=False, image_mean=MEAN, image_std=STD)
    pixels = processor(every_level(), return_tensors="pt").pixel_values[0]
    codec = PixelCodec(MEAN, STD)
    stored = codec.encode(pixels)
    assert torch.equal(stored, every_level())
    assert torch.equal(codec.decode(stored), pixels)


@pytest.mark.parametrize(
    ("dtype", "atol"),
    [(torch.float64, 5e-7), (torch.float32, 5e-7), (torch.bfloat16, 0), (torch.float16, 0)],
)
def test_codec_recovers_the_8_bit_levels_from_any_float_dtype(dtype, atol):
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    pixels = ((every_level() / 255 - mean) / std).to(dtype)
    codec = PixelCodec(MEAN, STD)
    stored = codec.encode(pixels)
    assert torch.equal(stored, every_level())
    difference = (codec.decode(stored).to(dtype) - pixels).abs()
    assert difference.max() <= atol


def test_codec_without_statistics_keeps_half_precision_and_rounds_the_rest_to_2_to_the_minus_11():
    codec = PixelCodec(None, None)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 50, 50, generator=generator)
    stored = codec.encode(pixels)
    assert stored.dtype == torch.float16
    assert ((codec.decode(stored) - pixels).abs() <= pixels.abs() * 2**-11 + 1e-7).all()
    half = pixels.bfloat16()
    assert torch.equal(codec.encode(half), half)
    assert codec.encode(half).data_ptr() != half.data_ptr()


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (MEAN, None, "both image_mean and image_std"),
        (MEAN[:2], STD, "three values of image_mean"),
        (MEAN, [0.2, 0.0, 0.2], "three positive ones of image_std"),
    ],
)
def test_codec_refuses_impossible_statistics(mean, std, words):
    with pytest.raises(InputError, match=words):
        PixelCodec(mean, std)


def test_replacements_name_the_entry_that_goes():
    generator = torch.Generator().manual_seed(0)
    entries = [entry_used(uses) for uses in (0, 3, 1, 3)]
    assert REPLACEMENTS["fifo"](entries, generator) == 0
    assert REPLACEMENTS["lifo"](entries, generator) == 3
    assert REPLACEMENTS["priority_used"](entries, generator) == 1
    assert REPLACEMENTS["priority_used"]([entry_used(0)] * 3, generator) == 0
    drawn = [REPLACEMENTS["random"](entries, generator) for _ in range(2000)]
    # Four equally likely places: 500 each, with a standard deviation of 19.
    assert all(abs(count - 500) < 100 for count in np.bincount(drawn, minlength=4))


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    num_slots=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_boxes_equal_a_search_with_numpy(batch, height, width, num_slots, seed):
    rng = np.random.default_rng(seed)
    slots = rng.integers(0, num_slots + 1, (batch, height, width))
    slots[rng.random(slots.shape) < 0.6] = num_slots
    boxes = find_boxes(torch.from_numpy(slots), num_slots).numpy()
    for b in range(batch):
        for slot in range(num_slots):
            y, x = np.nonzero(slots[b] == slot)
            assert boxes[b, slot, 0] == len(y)
            if len(y):
                expected = [y.min(), y.max() + 1, x.min(), x.max() + 1]
                assert boxes[b, slot, 1:].tolist() == expected


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 45),
    width=st.integers(1, 45),
    ratio=st.sampled_from([0.07, 0.1, 0.25, 0.3, 0.4, 0.5, 2 / 3, 0.75, 0.9, 0.99]),
    data=st.data(),
)
def test_shrinking_a_box_equals_shrinking_its_frame(height, width, ratio, data):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = (
        data.draw(st.integers(top + 1, height)),
        data.draw(st.integers(left + 1, width)),
    )
    generator = torch.Generator().manual_seed(height * 100 + width)
    frame = torch.randn(3, height, width, generator=generator)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = torch.rand(bottom - top, right - left, generator=generator) < 0.8

    size = (shrunk_size(height, ratio), shrunk_size(width, ratio))
    # interpolate() refuses to shrink a side to 0 pixels; here 1 is left, taken from the first row.
    scales = [ratio if side * ratio >= 1 else 1.0 for side in (height, width)]
    expected = interpolate(mask[None, None].float(), scale_factor=scales)[0, 0].bool()
    expected = expected[: size[0], : size[1]]

    margin = margin_for(ratio)
    y, x = max(0, top - margin), max(0, left - margin)
    box = (slice(y, bottom + margin), slice(x, right + margin))
    crop = frame[(slice(None), *box)]
    pixels, small, y, x = shrink(crop, mask[box], y, x, (height, width), ratio)
    place = (slice(y, y + small.shape[0]), slice(x, x + small.shape[1]))
    found = torch.zeros(size, dtype=torch.bool)
    found[place] = small
    assert torch.equal(found, expected)
    if scales == [ratio, ratio]:
        image = interpolate(frame[None], scale_factor=ratio, mode="bilinear")[0]
        whole = image[(slice(None), *place)]
        # Source positions near 45 are themselves rounded to 4e-6 in float32.
        torch.testing.assert_close(pixels[:, small], whole[:, small], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("start", "length", "limit", "target", "source"),
    [
        (3, 4, 10, (3, 7), (0, 4)),
        (8, 4, 10, (6, 10), (0, 4)),
        (-2, 4, 10, (0, 4), (0, 4)),
        (2, 12, 10, (0, 10), (0, 10)),
        (-1, 12, 10, (0, 10), (1, 11)),
        (-9, 12, 10, (0, 10), (2, 12)),
        (50, 10, 10, (0, 10), (0, 10)),
    ],
)
def test_fit_inside_moves_before_it_clips(start, length, limit, target, source):
    assert fit_inside(start, length, limit) == (slice(*target), slice(*source))
