import json
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_config
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    SegformerImageProcessor,
)

from aucseg_hf import AUCSegForSemanticSegmentation
from aucseg_hf.errors import InputError
from aucseg_hf.export import export_model

SIZES = [(1, 64, 64), (3, 100, 77), (2, 65, 190)]
NAMES = {0: "sky", 1: "road", 2: "car", 3: "sign"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = AUCSegForSemanticSegmentation(tiny_config(id2label=NAMES)).eval()
    # Random classifiers give logits so small that any difference would pass.
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    return model


@pytest.fixture
def processor():
    return SegformerImageProcessor(do_resize=False)


def model_and_inputs(model):
    for batch, height, width in SIZES:
        pixel_values = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            yield pixel_values, model(pixel_values).logits


@pytest.mark.slow
def test_torch_export_equals_the_model_at_any_size(model, processor, tmp_path):
    path = tmp_path / "folder" / "model.pt2"
    assert export_model(model, processor, path, "torch_export") < 1e-5
    extra = {"id2label.json": "", "image_mean.json": "", "image_std.json": ""}
    exported = torch.export.load(path, extra_files=extra).module()
    for pixel_values, logits in model_and_inputs(model):
        assert logits.abs().max() > 1e-2
        torch.testing.assert_close(exported(pixel_values), logits, rtol=0, atol=1e-5)
    assert json.loads(extra["id2label.json"]) == {str(i): name for i, name in NAMES.items()}
    assert json.loads(extra["image_mean.json"]) == list(processor.image_mean)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt2"]


@pytest.mark.slow
def test_onnx_equals_the_model_at_any_size(model, processor, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    assert export_model(model, processor, path, "onnx") < 1e-4
    session = onnxruntime.InferenceSession(path)
    for pixel_values, logits in model_and_inputs(model):
        (result,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
        np.testing.assert_allclose(result, logits, rtol=0, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["id2label"]) == {str(i): name for i, name in NAMES.items()}
    assert json.loads(metadata["image_std"]) == list(processor.image_std)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 3, "height", "width"]


def test_a_changed_graph_is_refused_and_leaves_no_file(model, processor, tmp_path, monkeypatch):
    class Program:
        def module(self):
            return lambda pixel_values: torch.full((1, 4, 33, 25), torch.nan)

    monkeypatch.setattr("aucseg_hf.export._trace", lambda wrapped: None)
    monkeypatch.setattr(torch.export, "save", lambda program, file, extra_files: file.touch())
    monkeypatch.setattr(torch.export, "load", lambda file: Program())
    with pytest.raises(InputError, match="segformer as torch_export: its logits change by nan"):
        export_model(model, processor, tmp_path / "model.pt2", "torch_export")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(model, processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r'onnx: pip install "aucseg-hf\[export\]"'):
        export_model(model, processor, tmp_path / "model.onnx", "onnx")
    with pytest.raises(InputError, match="format to be one of onnx, torch_export, got 'tflite'"):
        export_model(model, processor, tmp_path / "model.tflite", "tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_that_needs_fixed_sizes(processor, tmp_path):
    model = MobileNetV2ForSemanticSegmentation(MobileNetV2Config(depth_multiplier=0.25)).eval()
    with pytest.raises(InputError, match="cannot export mobilenet_v2 with height and width"):
        export_model(model, processor, tmp_path / "model.pt2", "torch_export")
    assert not list(tmp_path.iterdir())
