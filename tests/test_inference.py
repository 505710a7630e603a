import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_config
from transformers import SegformerImageProcessor, pipeline

from aucseg_hf import AUCSegForSemanticSegmentation, InputError, predict
from aucseg_hf.inference import predict_each


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


@pytest.mark.parametrize(("width", "height"), [(90, 60), (64, 64), (131, 203)])
def test_label_maps_at_native_size_equal_the_pipeline(model, processor, tmp_path, width, height):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image = random_image(width, height)
    (labels,) = predict(model, processor, image)
    assert labels.shape == (height, width)
    assert len(np.unique(labels)) > 1
    for segment in pipeline("image-segmentation", str(tmp_path))(image):
        class_id = model.config.label2id[segment["label"]]
        np.testing.assert_array_equal(np.array(segment["mask"]) > 0, labels == class_id)


@pytest.mark.parametrize("window", [96, (64, 96), 500])
def test_a_window_over_the_whole_image_changes_nothing(model, processor, window):
    image = random_image(96, 64)
    whole = next(predict_each(model, processor, image, confidence=True))
    windowed = next(predict_each(model, processor, image, window=window, confidence=True))
    np.testing.assert_array_equal(windowed.labels, whole.labels)
    np.testing.assert_array_equal(windowed.confidence, whole.confidence)


def test_sliding_windows_blend_their_logits_with_gaussian_weights(model, processor):
    image = random_image(96, 70)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    offset = (torch.arange(64) + 0.5 - 32) / 8
    gauss = torch.exp(-0.5 * offset**2).double()
    total, weight = torch.zeros(4, 70, 96).double(), torch.zeros(70, 96).double()
    for top in (0, 6):  # windows of 64, stride 20, the last at the edge
        for left in (0, 20, 32):
            area = (slice(top, top + 64), slice(left, left + 64))
            with torch.no_grad():
                logits = model(pixels[(..., *area)]).logits
            logits = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")[0]
            total[(..., *area)] += logits * torch.outer(gauss, gauss)
            weight[area] += torch.outer(gauss, gauss)
    expected = total / weight
    (prediction,) = predict_each(model, processor, image, window=64, stride=20, confidence=True)
    np.testing.assert_array_equal(prediction.labels, expected.argmax(0).numpy())
    np.testing.assert_allclose(prediction.confidence, expected.softmax(0).amax(0), atol=1e-3)


def test_images_in_batches_equal_images_alone(model, processor, monkeypatch):
    seen = []
    forward = model.forward

    def counted(pixel_values, **options):
        seen.append(len(pixel_values))
        return forward(pixel_values=pixel_values, **options)

    monkeypatch.setattr(model, "forward", counted)
    sizes = [(64, 48), (64, 48), (64, 48), (40, 80), (64, 48)]
    noise = np.random.default_rng(1)
    images = [noise.integers(0, 255, (h, w, 3), dtype=np.uint8) for w, h in sizes]
    for window in (None, 32):
        alone = [
            predict(model, processor, image, window=window, batch_size=1)[0] for image in images
        ]
        seen.clear()
        together = predict(model, processor, images, window=window, batch_size=2)
        # Three rows or columns of windows, two at a time, or one of each of two images.
        expected = [2, 1, 1, 1] if window is None else [*[2] * 6, 2, 1, 2, 1, 2, 2, 2, 2, 1, 2, 1]
        assert seen == expected
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)


def test_images_are_read_when_their_turn_comes(model, processor):
    def images():
        yield random_image(32, 32)
        raise AssertionError("read too early")

    first = next(predict_each(model, processor, images(), batch_size=1))
    assert first.labels.shape == (32, 32)
    assert first.confidence is None


def test_flip_averaging_is_symmetric(model, processor):
    image = random_image(64, 64)
    mirrored = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    direct = predict(model, processor, image, flip=True)[0]
    flipped = predict(model, processor, mirrored, flip=True)[0]
    assert (direct == flipped[:, ::-1]).mean() > 0.999
    assert not np.array_equal(direct, predict(model, processor, image)[0])


def test_scales_average_the_scores_of_the_resized_image(model, processor):
    image = random_image(80, 64)
    total = 0
    for size in ((40, 32), (80, 64), (120, 96)):
        resized = image.resize(size, PIL.Image.Resampling.BILINEAR)
        with torch.no_grad():
            logits = model(**processor(images=resized, return_tensors="pt")).logits
        total += torch.nn.functional.interpolate(logits, size=(64, 80), mode="bilinear").softmax(1)
    predicted = predict(model, processor, image, scales=(0.5, 1.0, 1.5))[0]
    best = total[0].topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    np.testing.assert_array_equal(predicted[clear], total[0].argmax(0).numpy()[clear])
    assert not np.array_equal(predicted, predict(model, processor, image)[0])


def test_a_processor_that_resizes(model):
    resizing = SegformerImageProcessor(size={"height": 32, "width": 32})
    image = random_image(90, 60)
    with torch.no_grad():
        logits = model(**resizing(images=image, return_tensors="pt")).logits
    upsampled = torch.nn.functional.interpolate(logits, size=(60, 90), mode="bilinear")
    whole = predict(model, resizing, image)[0]
    np.testing.assert_array_equal(whole, upsampled[0].argmax(0).numpy())
    native = predict(model, SegformerImageProcessor(do_resize=False), image)[0]
    np.testing.assert_array_equal(predict(model, resizing, image, window=100)[0], native)


def test_a_large_image_is_seen_through_windows(model, processor, monkeypatch, caplog):
    image = random_image(96, 64)
    expected = predict(model, processor, image, window=32)[0]
    monkeypatch.setattr("aucseg_hf.inference.LARGEST_WHOLE", 96 * 64)
    monkeypatch.setattr("aucseg_hf.inference.AUTOMATIC_WINDOW", 32)
    whole = predict(model, processor, image)[0]
    assert not caplog.records
    assert not np.array_equal(whole, expected)
    larger = predict(model, processor, image, scales=(2.0,))[0]
    np.testing.assert_array_equal(
        larger, predict(model, processor, image, window=32, scales=(2.0,))[0]
    )
    monkeypatch.setattr("aucseg_hf.inference.LARGEST_WHOLE", 96 * 64 - 1)
    np.testing.assert_array_equal(predict(model, processor, image)[0], expected)
    assert "96 x 64 is seen through windows of 32 pixels" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "positive window"),
        ({"window": 32, "stride": -1}, "positive stride"),
        ({"window": (32, 32, 32)}, "height, width"),
        ({"stride": 8}, "window with the stride"),
        ({"scales": (0,)}, "positive scales"),
        ({"scales": ()}, "positive scales"),
        ({"batch_size": 0}, "positive batch_size"),
    ],
)
def test_options_out_of_range(model, processor, options, words):
    with pytest.raises(InputError, match=words):
        predict(model, processor, random_image(32, 32), **options)


def test_kinds_of_sources(model, processor, tmp_path):
    image = random_image(40, 36)
    image.save(tmp_path / "image.png")
    expected = predict(model, processor, image)
    array = np.asarray(image)
    for source in (tmp_path / "image.png", str(tmp_path / "image.png"), array, array[None]):
        (labels,) = predict(model, processor, source)
        np.testing.assert_array_equal(labels, expected[0])
    assert predict(model, processor, []) == []


@pytest.mark.parametrize(
    ("size", "options"),
    [((40, 31), {}), ((1, 1), {}), ((64, 64), {"window": 16}), ((64, 64), {"scales": (0.4,)})],
)
def test_too_few_pixels_for_the_model(model, processor, size, options):
    with pytest.raises(InputError, match="at least 32 pixels"):
        predict(model, processor, random_image(64, 64).resize(size), **options)
