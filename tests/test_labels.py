import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aucseg_hf import InputError
from aucseg_hf.data import LabelRule

MODES = ["L", "P", "I", "I;16"]
PALETTE = ((10, 20, 30), (40, 50, 60), (70, 80, 90))


def image(ids, mode):
    """An image of the mode whose pixel values are the ids."""
    if mode == "I;16":
        return PIL.Image.fromarray(ids.astype(np.uint16))
    if mode == "I":
        return PIL.Image.fromarray(ids.astype(np.int32))
    mask = PIL.Image.fromarray(ids.astype(np.uint8))
    if mode == "P":
        mask.putpalette([7] * 768)
    return mask


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_ids_give_the_same_ids(mode):
    ids = np.array([[0, 1, 2], [2, 255, 0]])
    mask = image(ids, mode)
    assert mask.mode == mode
    result = LabelRule(3)(mask)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, ids)


def test_one_bit_masks_are_two_classes():
    ids = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(LabelRule(2)(PIL.Image.fromarray(ids > 0)), ids)


def test_another_ignore_index_becomes_void():
    np.testing.assert_array_equal(
        LabelRule(3, ignore_index=9)(image(np.array([[0, 9, 2]]), "L")), [[0, 255, 2]]
    )
    with pytest.raises(InputError, match=r"id 255 .* expected 0\.\.2, and 9 for void"):
        LabelRule(3, ignore_index=9)(image(np.array([[0, 255]]), "L"))


def slow_ids(raw, rule):
    """One pixel after the other, by the definition; the first pixel without a class otherwise."""
    result = np.zeros(raw.shape, np.uint8)
    for (y, x), value in np.ndenumerate(raw):
        if value == rule.ignore_index:
            result[y, x] = 255
        elif rule.id_map is not None and value in rule.id_map:
            result[y, x] = rule.id_map[value]
        elif rule.id_map is None and rule.reduce_labels and value == 0:
            result[y, x] = 255
        elif rule.id_map is None and 0 <= value - rule.reduce_labels < rule.num_labels:
            result[y, x] = value - rule.reduce_labels
        else:
            return int(value), x, y
    return result


@st.composite
def rules_and_ids(draw):
    num_labels = draw(st.integers(2, 6))
    some_id = st.one_of(st.integers(0, 8), st.sampled_from([255, 256, 300, 65535]))
    kind = draw(st.sampled_from(["plain", "reduce", "map"]))
    classes = st.one_of(st.integers(0, num_labels - 1), st.just(255))
    rule = LabelRule(
        num_labels,
        draw(some_id),
        draw(st.dictionaries(some_id, classes, min_size=1)) if kind == "map" else None,
        kind == "reduce",
    )
    mode = draw(st.sampled_from(MODES))
    largest = 255 if mode in ("L", "P") else 65535
    values = some_id.filter(lambda value: value <= largest)
    if mode == "I":
        values = st.one_of(values, st.sampled_from([-1, -300, 65536, 2**31 - 1]))
    return rule, draw(arrays(np.int64, (2, 3), elements=values)), mode


@settings(max_examples=200, deadline=None)
@given(rules_and_ids())
def test_every_rule_of_ids_equals_the_slow_one(case):
    rule, raw, mode = case
    expected = slow_ids(raw, rule)
    if isinstance(expected, tuple):
        value, x, y = expected
        with pytest.raises(InputError, match=rf"id {value} in m\.png at pixel \({x}, {y}\) has no"):
            rule(image(raw, mode), "m.png")
    else:
        np.testing.assert_array_equal(rule(image(raw, mode), "m.png"), expected)


channel = st.sampled_from([0, 1, 128, 255])
colors = st.tuples(channel, channel, channel)


@settings(max_examples=100, deadline=None)
@given(
    palette=st.lists(colors, min_size=3, max_size=6, unique=True),
    has_void=st.booleans(),
    extra=st.one_of(st.none(), colors),
    mode=st.sampled_from(["RGB", "RGBA"]),
    data=st.data(),
)
def test_every_palette_equals_the_slow_one(palette, has_void, extra, mode, data):
    classes = palette[:-1] if has_void else palette
    void = palette[-1] if has_void else None
    choices = palette + ([extra] if extra is not None else [])
    drawn = data.draw(st.lists(st.sampled_from(choices), min_size=6, max_size=6))
    pixels = np.array(drawn, np.uint8).reshape(2, 3, 3)
    mask = PIL.Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        mask.putalpha(77)
    rule = LabelRule(len(classes), palette=tuple(classes), void_color=void)
    ids = {color: i for i, color in enumerate(classes)}
    if void is not None:
        ids[void] = 255
    unknown = [i for i, color in enumerate(drawn) if color not in ids]
    if unknown:
        y, x = divmod(unknown[0], 3)
        color = ", ".join(map(str, drawn[unknown[0]]))
        with pytest.raises(
            InputError, match=rf"colour \({color}\) in m\.png at pixel \({x}, {y}\)"
        ):
            rule(mask, "m.png")
    else:
        expected = np.array([ids[color] for color in drawn]).reshape(2, 3)
        np.testing.assert_array_equal(rule(mask, "m.png"), expected)


def paletted(ids, palette):
    mask = PIL.Image.fromarray(np.array(ids, np.uint8))
    mask.putpalette([level for color in palette for level in color])
    assert mask.mode == "P"
    return mask


def test_ids_stored_with_the_class_palette_are_ids():
    mask = paletted([[2, 0, 1], [1, 1, 2]], PALETTE)
    np.testing.assert_array_equal(LabelRule(3, palette=PALETTE)(mask), [[2, 0, 1], [1, 1, 2]])


def test_colors_stored_with_a_palette_of_their_own_are_colors():
    """What a tool writes that saves colour-coded images with as few colours as they have."""
    mask = paletted([[0, 1, 0], [2, 2, 1]], (PALETTE[2], PALETTE[0], (0, 0, 0)))
    rule = LabelRule(3, palette=PALETTE, void_color=(0, 0, 0))
    np.testing.assert_array_equal(rule(mask), [[2, 0, 2], [255, 255, 0]])
    np.testing.assert_array_equal(rule(mask), rule(mask.convert("RGB")))
    with pytest.raises(InputError, match=r"colour \(0, 0, 0\) in a\.png at pixel \(0, 1\)"):
        LabelRule(3, palette=PALETTE)(mask, "a.png")


def test_unused_entries_of_a_palette_do_not_matter():
    mask = paletted([[0, 1]], ((7, 7, 7), PALETTE[1], PALETTE[0]))
    np.testing.assert_array_equal(LabelRule(3, palette=PALETTE)(mask), [[0, 1]])


def test_sixteen_bit_ids_do_not_wrap():
    mask = image(np.array([[0, 256]]), "I;16")
    with pytest.raises(InputError, match=r"id 256 in a\.png at pixel \(1, 0\)"):
        LabelRule(3)(mask, "a.png")
    np.testing.assert_array_equal(LabelRule(3, id_map={0: 2, 256: 1})(mask), [[2, 1]])


def test_colors_need_a_palette_of_distinct_colors():
    mask = PIL.Image.new("RGB", (2, 2))
    with pytest.raises(InputError, match=r"a\.png, got mode RGB: give .* palette\.json"):
        LabelRule(3)(mask, "a.png")
    repeated = (PALETTE[0], PALETTE[1], PALETTE[0])
    with pytest.raises(InputError, match=r"got \(10, 20, 30\) more than once"):
        LabelRule(3, palette=repeated)(mask)
    # For ids such a palette is good enough: it serves display only.
    np.testing.assert_array_equal(LabelRule(3, palette=repeated)(paletted([[2]], repeated)), [[2]])


@pytest.mark.parametrize("mode", ["LA", "CMYK", "F"])
def test_other_modes_are_refused(mode):
    with pytest.raises(InputError, match=rf"in a\.png, got mode {mode}"):
        LabelRule(3)(PIL.Image.new(mode, (2, 2)), "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 300}, "got 300"),
        ({"num_labels": 1}, "got 1"),
        ({"num_labels": 3, "ignore_index": -100}, "got -100"),
        ({"num_labels": 3, "id_map": {7: 3}}, "got 7: 3"),
        ({"num_labels": 3, "id_map": {-1: 0}}, "got -1: 0"),
        ({"num_labels": 3, "id_map": {1: 0}, "reduce_labels": True}, "got both"),
        ({"num_labels": 2, "palette": PALETTE}, "palette of 2 colours, got 3"),
    ],
)
def test_wrong_rules_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LabelRule(**options)
