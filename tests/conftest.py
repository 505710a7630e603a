import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

# Before huggingface_hub is imported: a model that does not exist is then refused without waiting.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Models here are tiny: more threads than one would only wait for each other.
torch.set_num_threads(1)

from aucseg_hf import AUCSegConfig, AUCSegForSemanticSegmentation  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    return Path(os.environ.get("AUCSEG_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def camvid() -> Path:
    folder = shared_folder() / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip(f"CamVid is not in {folder}")
    return folder


@pytest.fixture(scope="session")
def mobilenet() -> Path:
    folder = shared_folder() / "weights" / "mobilenet_v2_imagenet"
    if not folder.is_dir():
        pytest.skip(f"MobileNetV2 weights are not in {folder}")
    return folder


def tiny_config(num_labels: int = 4, **kwargs) -> AUCSegConfig:
    options = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
        "hidden_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        **kwargs,
    }
    return AUCSegConfig(num_labels=num_labels, **options)


def assert_same_state(first, second):
    """Bit-for-bit equality of nested dicts and lists of tensors and plain values."""
    if isinstance(first, torch.Tensor):
        torch.testing.assert_close(second, first, rtol=0, atol=0)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_same_state(value, second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same_state(one, other)
    else:
        assert first == second


@pytest.fixture
def tiny_model() -> AUCSegForSemanticSegmentation:
    torch.manual_seed(0)
    return AUCSegForSemanticSegmentation(tiny_config())


def write_pairs(folder: Path, num_train: int = 6, num_val: int = 3, size=(48, 40)) -> Path:
    """A folder of four classes: vertical bands, and a square of class 3 in every third image."""
    (folder / "id2label.json").parent.mkdir(parents=True, exist_ok=True)
    (folder / "id2label.json").write_text('{"0": "sky", "1": "road", "2": "car", "3": "sign"}')
    rng = np.random.default_rng(0)
    width, height = size
    for split, count in (("train", num_train), ("val", num_val)):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for i in range(count):
            label = np.zeros((height, width), np.uint8)
            label[:, width // 3 :] = 1
            label[:, 2 * width // 3 :] = 2
            label[0] = 255
            if i % 3 == 0:
                label[10:14, 5:9] = 3
            colors = np.array([[80, 120, 220], [90, 90, 90], [200, 30, 30], [250, 240, 20]])
            image = colors[np.where(label == 255, 0, label)] + rng.integers(
                -20, 20, (*label.shape, 3)
            )
            image = image.clip(0, 255).astype(np.uint8)
            PIL.Image.fromarray(image).save(folder / split / "images" / f"{i:03}.jpg", quality=95)
            PIL.Image.fromarray(label).save(folder / split / "labels" / f"{i:03}.png")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "data")
