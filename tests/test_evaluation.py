from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_config, write_pairs
from transformers import SegformerImageProcessor

from aucseg_hf import AUCSegForSemanticSegmentation, SegmentationDataset, load_benchmark, predict
from aucseg_hf.errors import InputError
from aucseg_hf.evaluation import (
    Evaluation,
    View,
    check_classes,
    class_groups,
    evaluate,
    predict_example,
)
from aucseg_hf.image_counts import ImageCounts
from aucseg_hf.metrics import SegmentationMetrics

NAMES = ("sky", "road", "car", "sign")
PROCESSOR = SegformerImageProcessor(do_resize=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = tiny_config(id2label=dict(enumerate(NAMES)))
    model = AUCSegForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    return model


@pytest.fixture
def benchmark(pairs):
    return load_benchmark(pairs)


def dataset_of(benchmark, split="val"):
    return SegmentationDataset(benchmark[split], benchmark.info.label_rule, PROCESSOR)


@pytest.mark.parametrize("view", [View(), View(window=32), View(scales=(1.0, 1.5), flip=True)])
def test_measures_what_predict_predicts(model, benchmark, view):
    dataset = dataset_of(benchmark)
    groups = {"tail": [3]}
    result = evaluate(model, PROCESSOR, dataset, groups, view, resamples=20)
    images = [benchmark["val"][i]["image"] for i in range(3)]
    predictions = predict(
        model, PROCESSOR, images, window=view.window, scales=view.scales, flip=view.flip
    )
    expected = SegmentationMetrics(4, groups=groups, boundary_iou=True)
    for i, prediction in enumerate(predictions):
        expected.update(torch.from_numpy(prediction)[None].int(), dataset.read(i)[1][None])
    assert len(np.unique(predictions)) > 1
    np.testing.assert_array_equal(result.confusion, expected.confusion)
    for key, value in expected.compute().items():
        np.testing.assert_array_equal(result.measures[key], value, err_msg=key)
    np.testing.assert_array_equal(result.images.dense(), expected.images.dense())
    assert ("pixel_auc" in result.measures) == view.is_plain
    low, high = result.intervals["mean_iou"]
    assert low <= result.measures["mean_iou"] <= high
    image, label, prediction = predict_example(model, PROCESSOR, dataset, 2, view)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(images[2].convert("RGB")))
    np.testing.assert_array_equal(label, dataset.read(2)[1])
    np.testing.assert_array_equal(prediction, predictions[2])


def test_a_window_larger_than_the_image_is_the_whole_image(model, benchmark):
    whole, window = (
        evaluate(model, PROCESSOR, dataset_of(benchmark), view=view, resamples=5)
        for view in (View(), View(window=500))
    )
    np.testing.assert_array_equal(whole.confusion, window.confusion)


def test_void_and_missing_images_are_refused(model, benchmark, pairs):
    empty = SegmentationDataset([], benchmark.info.label_rule, PROCESSOR)
    with pytest.raises(InputError, match="at least one image"):
        evaluate(model, PROCESSOR, empty)
    for path in (pairs / "val/labels").iterdir():
        PIL.Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    with pytest.raises(InputError, match="labelled pixels in the 3 images, got only the ignore"):
        evaluate(model, PROCESSOR, dataset_of(load_benchmark(pairs)))


def test_groups_come_from_the_training_split_or_the_model(model, benchmark):
    # Every third of six training images has 16 of 1,872 labelled pixels of class 3: 0.28 %.
    assert class_groups(benchmark, model.config) == {"head": [0, 1, 2], "middle": [], "tail": [3]}
    del benchmark["train"]
    assert class_groups(benchmark, model.config) == {}
    model.config.aucseg = {"tail_classes": [2, 1]}
    assert class_groups(benchmark, model.config) == {"other": [0, 3], "tail": [1, 2]}
    del model.config.aucseg
    assert class_groups(benchmark, model.config) == {}


def test_a_published_tail_goes_first(model, benchmark):
    benchmark.info = replace(benchmark.info, tail_classes=(2, 0))
    assert class_groups(benchmark, model.config) == {"head": [1], "middle": [3], "tail": [0, 2]}
    del benchmark["train"]
    model.config.aucseg = {"tail_classes": [3]}
    assert class_groups(benchmark, model.config) == {"other": [1, 3], "tail": [0, 2]}


def test_groups_count_classes_as_the_data_set_writes_them(model, tmp_path):
    folder = write_pairs(tmp_path / "reduced")
    for path in folder.glob("*/labels/*.png"):
        raw = np.asarray(PIL.Image.open(path)).astype(int)
        PIL.Image.fromarray(np.where(raw == 255, 0, raw + 1).astype(np.uint8)).save(path)
    benchmark = load_benchmark(folder, reduce_labels=True)
    assert class_groups(benchmark, model.config)["tail"] == [3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES, None),
        (("sky", "road", "van", "sign"), "name 1 of 4 classes differently: 2: 'van' and 'car'"),
        (("road", "sky", "car", "sign"), "differently: 0: 'road' and 'sky', 1: 'sky' and 'road'"),
        (("sky", "road", "car"), "x has 3 classes but data has 4; only one of them has sign"),
        ([f"c{i:02}" for i in range(9)], "has c00, c01, c02, c03, c04 and 8 more"),
    ],
)
def test_class_lists_are_compared(benchmark, names, message):
    config = tiny_config(len(names), id2label=dict(enumerate(names)))
    if message is None:
        check_classes(config, "x", benchmark.info)
    else:
        with pytest.raises(InputError, match=message):
            check_classes(config, "x", benchmark.info)


def test_extremes():
    images = ImageCounts(2)
    for hit in (3, 9, 0, 5, None, 7):  # None: all void
        counts = [[hit, 0], [10, 0], [hit, 10 - hit]] if hit is not None else [[0, 0]] * 3
        images.append(torch.tensor(counts))
    evaluation = Evaluation({}, {}, np.zeros((2, 2)), images)
    assert evaluation.extremes(2) == ([2, 0], [1, 5])
    assert evaluation.extremes(4) == ([2, 0, 3], [1, 5])
    assert evaluation.extremes(1) == ([2], [1])


def test_one_image_is_worst_and_not_best(model, tmp_path):
    benchmark = load_benchmark(write_pairs(tmp_path / "one", num_val=1))
    result = evaluate(model, PROCESSOR, dataset_of(benchmark), resamples=5)
    assert result.extremes(4) == ([0], [])
    np.testing.assert_allclose(result.intervals["mean_iou"], result.measures["mean_iou"])
