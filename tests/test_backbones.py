import pytest
import torch
from conftest import tiny_config
from transformers import (
    MaskFormerConfig,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    SegformerConfig,
    SegformerForImageClassification,
)

from aucseg_hf import AUCSegForSemanticSegmentation, InputError
from aucseg_hf.backbones import load_image_processor, load_model, load_trained_model

NAMES = {0: "sky", 1: "road", 2: "car"}


def test_a_size_gives_random_weights_and_class_names():
    model = load_model("b0", NAMES, palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert model.config.label2id == {"sky": 0, "road": 1, "car": 2}
    assert model.config.aucseg["palette"][2] == [7, 8, 9]


def test_encoder_of_an_image_classifier_is_taken(tmp_path):
    native = SegformerForImageClassification(
        SegformerConfig(
            num_labels=7,
            hidden_sizes=[8, 8, 16, 16],
            depths=[1] * 4,
            num_attention_heads=[1, 1, 2, 2],
        )
    )
    native.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), NAMES)
    assert isinstance(model, AUCSegForSemanticSegmentation)
    assert model.decode_head.classifier.out_channels == 3
    encoder = native.segformer.state_dict()
    for key, value in model.segformer.state_dict().items():
        torch.testing.assert_close(value, encoder[key], rtol=0, atol=0)


def test_other_class_counts_need_replace_head(tmp_path):
    settings = {"tail_classes": [4], "auc_weight": 0.25}
    source = AUCSegForSemanticSegmentation(tiny_config(num_labels=5, aucseg=settings))
    source.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"5 classes but the data has 3.*--replace_head"):
        load_model(str(tmp_path), NAMES)
    model = load_model(str(tmp_path), NAMES, replace_head=True)
    assert model.decode_head.classifier.out_channels == 3
    # Tail class 4 was one of the other classes; the weights of the loss carry over.
    assert (model.config.aucseg["tail_classes"], model.config.aucseg["auc_weight"]) == ([], 0.25)
    torch.testing.assert_close(
        model.decode_head.linear_fuse.weight, source.decode_head.linear_fuse.weight
    )


def test_settings_of_a_checkpoint_survive_loading(tmp_path):
    config = tiny_config(num_labels=3, aucseg={"auc_weight": 0.25, "tail_classes": [2]})
    AUCSegForSemanticSegmentation(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), NAMES)
    assert model.config.aucseg["auc_weight"] == 0.25
    assert load_trained_model(str(tmp_path)).config.aucseg["tail_classes"] == [2]


def test_mobilenet_batch_norm_keeps_its_running_statistics(tmp_path):
    config = MobileNetV2Config(num_labels=3, depth_multiplier=0.25)
    MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), NAMES)
    momenta = {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.01}


def test_pretrained_mobilenet_encoder(mobilenet):
    model = load_model(str(mobilenet), NAMES)
    assert model.config.num_labels == 3
    processor = load_image_processor(str(mobilenet))
    assert (processor.do_resize, processor.do_center_crop) == (False, False)
    assert list(processor.image_mean) == [0.5, 0.5, 0.5]


def test_what_cannot_be_loaded_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot load a model from"):
        load_model(str(tmp_path / "nowhere"), NAMES)
    MaskFormerConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="maskformer"):
        load_model(str(tmp_path), NAMES)
    with pytest.raises(InputError, match="semantic segmentation checkpoint"):
        load_trained_model(str(tmp_path))
