import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT, tiny_config
from test_readme import blocks
from test_trainer import gradients_after_one_step
from tiny_models import (
    TYPES,
    native_class,
    random_pairs,
    tiny_config_of,
    tiny_model_of,
    training_size,
)
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitImageProcessor,
    DPTImageProcessor,
    EomtImageProcessor,
    Mask2FormerImageProcessor,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2ImageProcessor,
    MobileViTImageProcessor,
    Sapiens2ImageProcessor,
    Sapiens2Model,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerImageProcessor,
    Tipsv2DptImageProcessor,
    ViTConfig,
)

from aucseg_hf import (
    AUCSegForSemanticSegmentation,
    AUCSegTrainer,
    AUCSegTrainingArguments,
    InputError,
    SegmentationDataset,
)
from aucseg_hf.backbones import (
    has_spare_parameters,
    load_image_processor,
    load_model,
    load_trained_model,
)
from aucseg_hf.semantic_forward import semantic_logits

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


@pytest.mark.parametrize("model_type", TYPES)
def test_every_type_trains_evaluates_saves_and_loads(model_type, tmp_path):
    names = {i: f"class {i}" for i in range(4)}
    tiny_model_of(model_type).save_pretrained(tmp_path / "start")
    model = load_model(str(tmp_path / "start"), names)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    images, labels = random_pairs(2, training_size(model.config))
    train = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    evaluation = [
        {"pixel_values": x[0], "labels": y[0]}
        for x, y in (random_pairs(1, size) for size in ((64, 64), (45, 83)))
    ]
    arguments = AUCSegTrainingArguments(
        str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = AUCSegTrainer(model, arguments, train_dataset=train, eval_dataset=evaluation)
    gradients = gradients_after_one_step(trainer)
    log = trainer.state.log_history[0]
    assert 0 < log["loss"] < float("inf")

    # Every parameter learns, but for those that transformers leaves unused.
    encoder = TYPES[model_type][1]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith(encoder) for name in changed)
    assert any(not name.startswith(encoder) for name in changed)
    unused = before.keys() - gradients.keys()
    assert bool(unused) == has_spare_parameters(model.config)
    auxiliary = [name for name in before if name.startswith("auxiliary_head")]
    assert set(auxiliary) <= gradients.keys()
    assert all(gradients[name].abs().sum() > 0 for name in auxiliary if "classifier" in name)
    assert ("loss_aux" in log) == bool(auxiliary)

    assert 0 <= trainer.evaluate()["eval_mean_iou"] <= 1
    trainer.save_model(tmp_path / "saved")
    expected = semantic_logits(model.eval(), images)
    for loaded in (
        load_trained_model(str(tmp_path / "saved")),
        native_class(model.config).from_pretrained(tmp_path / "saved").eval(),
    ):
        torch.testing.assert_close(semantic_logits(loaded, images), expected, rtol=0, atol=0)
    assert load_trained_model(str(tmp_path / "saved")).config.id2label == names


@pytest.mark.parametrize("model_type", TYPES)
def test_every_type_takes_another_number_of_classes(model_type, tmp_path):
    source = tiny_model_of(model_type)
    source.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="4 classes but the data has 3"):
        load_model(str(tmp_path), NAMES)
    model = load_model(str(tmp_path), NAMES, replace_head=True).eval()
    images, _ = random_pairs(1, training_size(model.config))
    logits = semantic_logits(model, images)
    assert logits.shape[1] == 3
    assert logits.isfinite().all()
    for key, value in model.state_dict().items():
        if key.startswith(TYPES[model_type][1]) and value.is_floating_point():
            torch.testing.assert_close(value, source.state_dict()[key], rtol=0, atol=0)
    if hasattr(model, "criterion"):
        # Weights of the classes and of "no object" in the own loss.
        no_object = model.config.no_object_weight
        assert model.criterion.empty_weight.tolist() == pytest.approx([1, 1, 1, no_object])


@pytest.mark.parametrize("model_type", ["segformer", "sapiens2", "maskformer"])
def test_a_checkpoint_in_half_precision_is_trained_in_single(model_type, tmp_path):
    tiny_model_of(model_type).half().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), {0: "a", 1: "b", 2: "c", 3: "d"})
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert load_trained_model(str(tmp_path)).dtype == torch.float16


def test_blocks_of_a_beit_encoder_are_chosen(tmp_path):
    BeitForImageClassification(
        BeitConfig(hidden_size=8, num_hidden_layers=12, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), NAMES)
    assert list(model.config.out_indices) == [3, 5, 7, 11]


def test_head_of_a_sapiens2_encoder_has_stride_four(tmp_path):
    Sapiens2Model(tiny_config_of("sapiens2", head_config=None)).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), NAMES).eval()
    logits = semantic_logits(model, torch.zeros(1, 3, 32, 48))
    assert logits.shape == (1, 3, 16, 24)  # patches of 8, twice upsampled


def test_what_cannot_be_loaded_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot load a model from"):
        load_model(str(tmp_path / "nowhere"), NAMES)
    tiny_config_of("maskformer").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot load weights from"):
        load_model(str(tmp_path), NAMES)
    with pytest.raises(InputError, match="semantic segmentation checkpoint"):
        load_trained_model(str(tmp_path))
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"type vit: expected one of beit, .*, upernet"):
        load_model(str(tmp_path), NAMES)
    (tmp_path / "config.json").write_text('{"model_type": "oneformer"}')
    with pytest.raises(InputError, match=r"oneformer \(it needs text inputs\)"):
        load_model(str(tmp_path), NAMES)


@pytest.mark.parametrize(
    "processor",
    [
        BeitImageProcessor(),
        DPTImageProcessor(),
        EomtImageProcessor(),
        Mask2FormerImageProcessor(),
        MobileNetV2ImageProcessor(),
        MobileViTImageProcessor(),  # channels reversed, not normalised
        Sapiens2ImageProcessor(),
        SegformerImageProcessor(),
        Tipsv2DptImageProcessor(),  # not normalised
    ],
)
def test_training_sees_what_the_image_processor_gives(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    processor = load_image_processor(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 255, (45, 50, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(pixels)
    record = {"image": image, "label": PIL.Image.fromarray(pixels[..., 0] % 3)}
    (example,) = SegmentationDataset([record], lambda label, name: np.array(label), processor)
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(example["pixel_values"], expected, rtol=1e-5, atol=1e-6)


def test_snippets_of_the_backbones_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model_of("upernet").save_pretrained("openmmlab/upernet-convnext-tiny")
    train, loop = blocks("python", (ROOT / "docs/backbones.md").read_text(encoding="utf-8"))
    images, labels = random_pairs(2, (64, 64))
    labels[labels == 3] = 0
    data = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    session = {"train_dataset": data, "pixel_values": images, "labels": labels}
    train = train.replace("max_steps=100", "max_steps=1, use_cpu=True, report_to='none'")
    for snippet in (train, loop):
        exec(compile(snippet, "docs/backbones.md", "exec"), session)
    assert session["parts"].keys() == {"loss_ce", "loss_auc", "loss_aux"}
    parts = {name: value.item() for name, value in session["parts"].items()}
    expected = parts["loss_ce"] + 0.5 * parts["loss_auc"] + 0.4 * parts["loss_aux"]
    assert session["loss"].item() == pytest.approx(expected, rel=1e-5)
