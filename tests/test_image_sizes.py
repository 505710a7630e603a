import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TYPES, random_pairs, tiny_config_of, tiny_model_of
from torch.nn.functional import interpolate
from transformers import BeitConfig, UperNetConfig

from aucseg_hf import InputError
from aucseg_hf.image_sizes import ImageSizes, any_size_logits, check_image_size, sliding_logits
from aucseg_hf.semantic_forward import SemanticForward, semantic_logits

EXPECTED = {
    "beit": ImageSizes(multiple=8),
    "dpt": ImageSizes(multiple=8),
    "sapiens2": ImageSizes(multiple=8),
    "tipsv2_dpt": ImageSizes(multiple=7),
    "data2vec-vision": ImageSizes(fixed=(32, 32)),
    "eomt": ImageSizes(fixed=(32, 32)),
    "eomt_dinov3": ImageSizes(fixed=(32, 32)),
}


@pytest.mark.parametrize("model_type", TYPES)
def test_sizes_of_every_type(model_type):
    assert ImageSizes.from_config(tiny_config_of(model_type)) == EXPECTED.get(
        model_type, ImageSizes()
    )


@pytest.mark.parametrize("model_type", [t for t in EXPECTED if EXPECTED[t].fixed is None])
def test_a_border_that_transformers_cuts_off_is_seen(model_type):
    model = tiny_model_of(model_type).eval()
    multiple = EXPECTED[model_type].multiple
    images, _ = random_pairs(1, (4 * multiple, 4 * multiple + 3))
    changed = images.clone()
    changed[..., -3:] += 5
    with torch.no_grad():
        if model_type != "dpt":  # which fails where the sides differ
            assert torch.equal(model(images).logits, model(changed).logits)
        assert not torch.equal(semantic_logits(model, images), semantic_logits(model, changed))


def test_backbones_of_patches_in_upernet():
    backbone = BeitConfig(patch_size=16, out_indices=[3, 5, 7, 11])
    assert ImageSizes.from_config(UperNetConfig(backbone_config=backbone)).multiple == 16


def test_hybrid_dpt_has_one_size():
    config = tiny_config_of("dpt", is_hybrid=True, image_size=384)
    assert ImageSizes.from_config(config).fixed == (384, 384)


@pytest.mark.parametrize(
    ("model_type", "size", "message"),
    [
        ("beit", (36, 64), r"multiples of 8 for beit, got 36 x 64: use --crop_size 40 64"),
        ("eomt", (64, 64), r"of 32 x 32 for eomt, got 64 x 64: use --crop_size 32 32"),
    ],
)
def test_crops_that_do_not_fit_are_refused(model_type, size, message):
    model = tiny_model_of(model_type)
    with pytest.raises(InputError, match=message):
        check_image_size(model.config, size)
    with pytest.raises(InputError, match=message):
        SemanticForward(model)(model, random_pairs(1, size)[0])
    check_image_size(model.config, (32, 32))


def test_dpt_sees_an_upright_image_as_it_is():
    """transformers takes a grid of 2 x 8 patches for 4 x 4 without a word."""
    model = tiny_model_of("dpt").eval()
    images, _ = random_pairs(1, (16, 64))
    with torch.no_grad():
        images[..., 32:] = 0
        logits = semantic_logits(model, images)
        assert logits.shape[-1] == 4 * logits.shape[-2]
        square = images.repeat(1, 1, 4, 1)  # where nothing is to be mended
        torch.testing.assert_close(semantic_logits(model, square), model(square).logits)


def test_borders_are_filled_up_and_cut_off():
    model = tiny_model_of("beit").eval()
    images, _ = random_pairs(2, (45, 83))
    padded = torch.zeros(2, 3, 48, 88)
    padded[..., :45, :83] = images
    with torch.no_grad():
        expected = interpolate(model(padded).logits, size=(48, 88), mode="bilinear")
        logits = semantic_logits(model, images)
    torch.testing.assert_close(logits, expected[..., :45, :83])


def test_one_fixed_size_means_windows():
    model = tiny_model_of("eomt").eval()
    images, _ = random_pairs(1, (32, 80))
    with torch.no_grad():
        total, count = torch.zeros(1, 4, 32, 80), torch.zeros(80)
        for left in (0, 24, 48):  # three quarters of 32, and the last at the edge
            logits = semantic_logits(model, images[..., left : left + 32])
            total[..., left : left + 32] += interpolate(logits, size=(32, 32), mode="bilinear")
            count[left : left + 32] += 1
        torch.testing.assert_close(semantic_logits(model, images), total / count)
        small, _ = random_pairs(1, (20, 24))
        filled = torch.nn.functional.pad(small, (0, 8, 0, 12))
        expected = interpolate(semantic_logits(model, filled), size=(32, 32), mode="bilinear")
        torch.testing.assert_close(semantic_logits(model, small), expected[..., :20, :24])


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    window=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    stride=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_windows_of_a_pointwise_function_give_the_function(size, window, stride):
    images, _ = random_pairs(2, size)
    logits = sliding_logits(lambda view: 2 * view + 1, images, window, stride)
    torch.testing.assert_close(logits, 2 * images + 1)
    logits = any_size_logits(lambda view: 2 * view + 1, ImageSizes(fixed=window), images)
    torch.testing.assert_close(logits, 2 * images + 1)
