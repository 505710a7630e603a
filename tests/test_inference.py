import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_config
from transformers import SegformerImageProcessor, pipeline

from aucseg_hf import AUCSegForSemanticSegmentation, InputError, predict


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AUCSegForSemanticSegmentation(tiny_config()).eval()


@pytest.fixture
def processor():
    return SegformerImageProcessor(do_resize=False)


def random_image(width, height, mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize((width, height)).convert(mode)


def test_label_maps_at_native_size_equal_the_pipeline(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image = random_image(90, 60)
    (labels,) = predict(model, processor, image)
    assert labels.shape == (60, 90)
    assert len(np.unique(labels)) > 1
    for segment in pipeline("image-segmentation", str(tmp_path))(image):
        class_id = model.config.label2id[segment["label"]]
        np.testing.assert_array_equal(np.array(segment["mask"]) > 0, labels == class_id)


def test_images_of_other_sizes_and_modes(model, processor):
    maps = predict(model, processor, [random_image(64, 48), random_image(40, 80, "L")])
    assert [m.shape for m in maps] == [(48, 64), (80, 40)]


@pytest.mark.parametrize("window", [64, (64, 96), 500])
def test_a_window_over_the_whole_image_changes_nothing(model, processor, window):
    image = random_image(96, 64) if window != 64 else random_image(64, 64)
    whole = predict(model, processor, image)[0]
    np.testing.assert_array_equal(predict(model, processor, image, window=window)[0], whole)


def test_sliding_windows_average_their_logits(model, processor):
    image = random_image(96, 64)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    total, count = torch.zeros(4, 64, 96), torch.zeros(64, 96)
    for left in (0, 20, 32):  # windows of 64, stride 20, the last at the edge
        with torch.no_grad():
            logits = model(pixels[..., left : left + 64]).logits
        total[..., left : left + 64] += torch.nn.functional.interpolate(
            logits, size=(64, 64), mode="bilinear"
        )[0]
        count[:, left : left + 64] += 1
    expected = (total / count).argmax(0).numpy()
    predicted = predict(model, processor, image, window=64, stride=20)[0]
    assert (predicted == expected).mean() > 0.999


def test_flip_averaging_is_symmetric(model, processor):
    image = random_image(64, 64)
    mirrored = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    direct = predict(model, processor, image, flip=True)[0]
    flipped = predict(model, processor, mirrored, flip=True)[0]
    assert (direct == flipped[:, ::-1]).mean() > 0.999
    assert not np.array_equal(direct, predict(model, processor, image)[0])


def test_scales_average_scores(model, processor):
    image = random_image(64, 64)
    plain = predict(model, processor, image)[0]
    np.testing.assert_array_equal(predict(model, processor, image, scales=(1.0, 1.0))[0], plain)
    assert predict(model, processor, image, scales=(0.5, 1.0, 1.5))[0].shape == (64, 64)


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 32, "stride": -1}, {"scales": (0,)}])
def test_options_out_of_range(model, processor, options):
    with pytest.raises(InputError, match="positive"):
        predict(model, processor, random_image(32, 32), **options)
