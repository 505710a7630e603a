import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import tiny_config
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from aucseg_hf import AUCSegConfig, AUCSegForSemanticSegmentation, InputError, segmentation_loss


def random_batch(num_labels=4, size=64):
    torch.manual_seed(1)
    pixel_values = torch.randn(2, 3, size, size)
    labels = torch.randint(0, num_labels, (2, size, size))
    labels[:, :5] = 255
    return pixel_values, labels


def test_config_round_trip_keeps_settings_under_one_key(tmp_path):
    config = tiny_config(aucseg={"auc_weight": 0.5, "surrogate": "exp", "tail_classes": [3]})
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "segformer"
    assert saved["aucseg"]["auc_weight"] == 0.5
    assert AUCSegConfig.from_pretrained(tmp_path).aucseg == config.aucseg
    assert config.aucseg["ce_weight"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auc_wieght": 1.0}, "auc_weight"),
        ({"auc_weight": -1.0}, "-1"),
        ({"ce_weight": float("nan")}, "nan"),
        ({"surrogate": "cubic"}, "cubic"),
        ({"tail_classes": [4]}, "4"),
        ({"tail_classes": [1], "resize_ratio": 0.0}, "0"),
    ],
)
def test_config_refuses_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        tiny_config(aucseg=settings)


def test_sizes_follow_the_published_table():
    b0, b5 = AUCSegConfig.from_size("b0"), AUCSegConfig.from_size("b5")
    assert (b0.depths, b0.hidden_sizes, b0.decoder_hidden_size) == (
        [2, 2, 2, 2],
        [32, 64, 160, 256],
        256,
    )
    assert (b5.depths, b5.hidden_sizes, b5.decoder_hidden_size) == (
        [3, 6, 40, 3],
        [64, 128, 320, 512],
        768,
    )
    with pytest.raises(InputError, match="b7"):
        AUCSegConfig.from_size("b7")


def test_b0_has_the_published_number_of_parameters():
    # 3.8 M with the ADE20K head (Xie et al. 2021, table 1).
    model = AUCSegForSemanticSegmentation(AUCSegConfig.from_size("b0", num_labels=150))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(3.75e6, rel=0.02)


def test_forward_returns_the_combined_loss(tiny_model):
    pixel_values, labels = random_batch()
    tiny_model.config.aucseg.update(auc_weight=0.5, ce_weight=2.0)
    tiny_model.eval()
    outputs = tiny_model(pixel_values=pixel_values, labels=labels)
    ce = torch.nn.functional.cross_entropy(
        torch.nn.functional.interpolate(outputs.logits, size=(64, 64), mode="bilinear"),
        labels,
        ignore_index=255,
    )
    auc = segmentation_loss(outputs.logits, labels).auc
    assert outputs.loss.item() == pytest.approx(2 * ce.item() + 0.5 * auc.item(), rel=1e-5)
    loss, logits = tiny_model(pixel_values=pixel_values, labels=labels, return_dict=False)
    torch.testing.assert_close((loss, logits), (outputs.loss, outputs.logits))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_label_dtype(tiny_model, dtype):
    pixel_values, labels = random_batch()
    expected = tiny_model(pixel_values=pixel_values, labels=labels).loss
    loss = tiny_model(pixel_values=pixel_values, labels=labels.to(dtype)).loss
    torch.testing.assert_close(loss, expected)


def test_ignored_only_batch_has_zero_loss_and_gradient(tiny_model):
    pixel_values, labels = random_batch()
    loss = tiny_model(pixel_values=pixel_values, labels=torch.full_like(labels, 255)).loss
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad.abs().max().item() for p in tiny_model.parameters() if p.grad is not None]
    assert max(gradients, default=0) == 0


@pytest.mark.parametrize("bad", [-100, 4, 254])
def test_label_outside_the_range_is_named(tiny_model, bad):
    pixel_values, labels = random_batch()
    labels[0, 10, 10] = bad
    with pytest.raises(InputError, match=str(bad)):
        tiny_model(pixel_values=pixel_values, labels=labels)


def test_native_checkpoint_loads_with_no_missing_key(tmp_path):
    torch.manual_seed(0)
    keys = tiny_config().to_dict()
    keys.pop("aucseg")
    native = SegformerForSemanticSegmentation(SegformerConfig(**keys)).eval()
    native.save_pretrained(tmp_path)
    ours, info = AUCSegForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    pixel_values, _ = random_batch()
    with torch.no_grad():
        torch.testing.assert_close(
            ours.eval()(pixel_values).logits, native(pixel_values).logits, rtol=0, atol=0
        )


def test_checkpoint_works_in_a_process_without_the_package(tiny_model, tmp_path):
    """Auto classes and the pipeline see native SegFormer, no prompt, same logits."""
    tiny_model.config.aucseg["tail_classes"] = [2]
    tiny_model.eval().save_pretrained(tmp_path / "model")
    SegformerImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
    pixel_values, _ = random_batch()
    with torch.no_grad():
        logits = tiny_model(pixel_values).logits
    torch.save({"pixel_values": pixel_values, "logits": logits}, tmp_path / "expected.pt")
    image = PIL.Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    )
    image.save(tmp_path / "image.png")
    script = """
import sys, torch
sys.modules["aucseg_hf"] = None  # importing it would raise
from transformers import AutoModelForSemanticSegmentation, pipeline
model = AutoModelForSemanticSegmentation.from_pretrained("model")
assert type(model).__name__ == "SegformerForSemanticSegmentation"
assert model.config.aucseg["tail_classes"] == [2]
expected = torch.load("expected.pt")
with torch.no_grad():
    torch.testing.assert_close(model(expected["pixel_values"]).logits, expected["logits"])
segments = pipeline("image-segmentation", "model")("image.png")
assert sum((__import__("numpy").array(s["mask"]) > 0).sum() for s in segments) == 50 * 70
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "not supported" not in result.stderr
