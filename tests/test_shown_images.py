import numpy as np
import PIL.Image
import torch
from conftest import tiny_config
from transformers import SegformerImageProcessor

from aucseg_hf import AUCSegForSemanticSegmentation, SegmentationDataset, load_benchmark
from aucseg_hf.evaluation import View, evaluate
from aucseg_hf.shown_images import ShownImage, worst_and_best


def test_worst_and_best_are_the_images_of_their_measure(pairs):
    torch.manual_seed(0)
    model = AUCSegForSemanticSegmentation(tiny_config())
    processor = SegformerImageProcessor(do_resize=False)
    benchmark = load_benchmark(pairs)
    dataset = SegmentationDataset(benchmark["val"], benchmark.info.label_rule, processor)
    evaluation = evaluate(model, processor, dataset, resamples=5)
    worst, best = worst_and_best(evaluation, model, processor, dataset, View(), count=1)
    iou = evaluation.images.mean_iou()
    for item, index in ((worst[0], iou.argmin()), (best[0], iou.argmax())):
        assert item.name == f"{index:03}.jpg"
        assert item.mean_iou == iou[index]
        np.testing.assert_array_equal(item.label, dataset.read(int(index))[1])
        present = [c for c in range(4) if (item.label == c).any()]
        valid = item.label != 255
        by_hand = [
            ((item.label == c) & (item.prediction == c)).sum()
            / (((item.label == c) | (item.prediction == c)) & valid).sum()
            for c in present
        ]
        assert np.isclose(item.mean_iou, np.mean(by_hand))


def test_strip():
    image = PIL.Image.new("RGB", (720, 360), (100, 100, 100))
    label, prediction = np.zeros((360, 720), np.uint8), np.ones((360, 720), np.uint8)
    label[:, 360:] = 255
    item = ShownImage("a", 0.0, image, label, prediction)
    strip = np.asarray(item.strip(np.array([[200, 0, 0], [0, 0, 200]], np.uint8)))
    assert strip.shape == (180, 3 * 360 + 8, 3)
    assert strip[90, 180].tolist() == [100, 100, 100]
    assert strip[90, 364 + 90].tolist() == [150, 50, 50]
    assert strip[90, 364 + 270].tolist() == [100, 100, 100]
    assert strip[90, 728 + 180].tolist() == [50, 50, 150]
    assert strip[90, 362].tolist() == [255, 255, 255]
    assert image.size == (720, 360)
