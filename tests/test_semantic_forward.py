import copy
import gc
import weakref

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed as dist
from conftest import assert_same_state
from test_trainer import gradients_after_one_step
from tiny_models import (
    NUM_LABELS,
    TYPES,
    random_pairs,
    tiny_model_of,
    training_size,
)
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    EomtImageProcessor,
    Mask2FormerImageProcessor,
    MaskFormerImageProcessor,
    OneFormerConfig,
    SegformerImageProcessor,
)

from aucseg_hf import AUCSegTrainer, AUCSegTrainingArguments, InputError, predict, segmentation_loss
from aucseg_hf.backbones import MASK_TYPES, has_spare_parameters
from aucseg_hf.semantic_forward import (
    SemanticForward,
    mask_classification_logits,
    mask_targets,
)

AUXILIARY_TYPES = ("beit", "data2vec-vision", "dpt", "upernet")


@pytest.mark.parametrize("model_type", AUXILIARY_TYPES)
def test_auxiliary_logits_are_those_of_the_head(model_type):
    model = tiny_model_of(model_type)
    model.auxiliary_head.eval()  # no dropout, no statistics to update
    forward = SemanticForward(model)
    images, _ = random_pairs(2, training_size(model.config))
    seen = []
    handle = model.auxiliary_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.no_grad():
        output = forward(model, images)
        handle.remove()
        expected = model.auxiliary_head(*seen[0])
    assert len(output.auxiliary_logits) == 1
    torch.testing.assert_close(output.auxiliary_logits[0], expected, rtol=0, atol=0)
    assert not output.logits.requires_grad
    assert forward.auxiliary_loss_weight == 0.4
    assert forward(model.eval(), images).auxiliary_logits == ()


@pytest.mark.parametrize("model_type", AUXILIARY_TYPES)
def test_without_auxiliary_head(model_type):
    model = tiny_model_of(model_type, use_auxiliary_head=False)
    images, labels = random_pairs(2, training_size(model.config))
    forward = SemanticForward(model)
    output = forward(model, images, labels)
    assert output.auxiliary_logits == ()
    assert output.model_loss is None
    assert forward.auxiliary_loss_weight == 0


def test_nothing_is_kept_after_the_call():
    model = tiny_model_of("dpt")
    images, _ = random_pairs(1, (64, 64))
    model(images)  # transformers adds hooks of its own at the first call

    def hooks():
        return [(*m._forward_hooks, *m._forward_pre_hooks) for m in model.modules()]

    before = hooks()
    output = SemanticForward(model)(model, images)
    assert hooks() == before
    graph = weakref.ref(output.auxiliary_logits[0])
    del output
    gc.collect()
    assert graph() is None


def test_auxiliary_gradients_with_checkpointing_equal_those_without():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model_of("beit")
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        output = SemanticForward(model)(model, random_pairs(2, (64, 64))[0])
        output.auxiliary_logits[0].square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert any(name.startswith("beit.layers") for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.fixture
def one_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("model_type", TYPES)
def test_distributed_gradients_equal_those_of_the_bare_model(model_type, one_process_group):
    """Also where parameters are unused, which DistributedDataParallel finds from the output."""
    gradients = []
    for distributed in (False, True):
        model = tiny_model_of(model_type)
        spare = has_spare_parameters(model.config)
        wrapped = model
        if distributed:
            wrapped = DistributedDataParallel(model, find_unused_parameters=spare)
        images, labels = random_pairs(2, training_size(model.config))
        torch.manual_seed(0)
        for _ in range(2):
            output = SemanticForward(model)(wrapped, images, labels)
            terms = [output.logits.mean(), *(x.mean() for x in output.auxiliary_logits)]
            terms += [] if output.model_loss is None else [output.model_loss]
            sum(terms).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_batch_of_one_image_trains(model_type):
    model = tiny_model_of(model_type)
    images, labels = random_pairs(1, training_size(model.config))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    output = SemanticForward(model)(model, images, labels)
    assert output.logits.isfinite().all()
    assert all(norm.training for norm in norms)


def test_batch_norm_of_single_values_uses_its_running_statistics():
    model = tiny_model_of("upernet")
    norms = model.decode_head.psp_modules.modules()
    pooled = next(module for module in norms if isinstance(module, torch.nn.BatchNorm2d))
    others = model.decode_head.fpn_bottleneck.batch_norm
    images, _ = random_pairs(1, (64, 64))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images)
    before = copy.deepcopy(pooled.state_dict())
    counted = others.num_batches_tracked.item()
    SemanticForward(model)(model, images)
    assert_same_state(before, pooled.state_dict())
    assert others.num_batches_tracked == counted + 1


# Mask classification


def class_and_mask_logits(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = 3 * torch.randn(2, 6, NUM_LABELS + 1, generator=generator)
    return classes, 3 * torch.randn(2, 6, *size, generator=generator)


@pytest.mark.parametrize(
    "processor",
    [
        MaskFormerImageProcessor(),
        Mask2FormerImageProcessor(),
        EomtImageProcessor(size={"shortest_edge": 384, "longest_edge": 384}),
    ],
)
def test_labels_equal_those_of_the_image_processor(processor):
    classes, masks = class_and_mask_logits((384, 384))  # to which some processors resize

    class Output:
        class_queries_logits, masks_queries_logits, patch_offsets = classes, masks, None

    maps = processor.post_process_semantic_segmentation(Output, target_sizes=[(384, 384)] * 2)
    labels = mask_classification_logits(classes, masks).argmax(dim=1)
    np.testing.assert_array_equal(torch.stack(maps), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_softmax_of_the_logits_is_the_share_of_the_scores(dtype):
    classes, masks = (x.to(dtype) for x in class_and_mask_logits((5, 7)))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        logits = mask_classification_logits(classes, masks)
    scores = torch.zeros(2, NUM_LABELS, 5, 7, dtype=torch.float64)
    for query in range(6):
        probabilities = classes[:, query].double().softmax(-1)
        mask = masks[:, query].double().sigmoid()
        for c in range(NUM_LABELS):
            scores[:, c] += probabilities[:, c, None, None] * mask
    assert logits.dtype == torch.float32
    expected = (scores / scores.sum(1, keepdim=True)).float()
    torch.testing.assert_close(logits.softmax(1), expected, rtol=1e-5, atol=1e-7)


def test_scores_of_zero_give_finite_logits_and_gradients():
    classes, masks = (x.requires_grad_() for x in class_and_mask_logits((3, 3)))
    logits = mask_classification_logits(classes, masks * 0 - 200)
    torch.testing.assert_close(logits, torch.full_like(logits, np.log(1e-6)))
    logits.sum().backward()
    assert classes.grad.isfinite().all()


def test_masks_of_the_classes():
    labels = torch.tensor([[[2, 255], [0, 2]], [[255, 255], [255, 255]]], dtype=torch.uint8)
    targets = mask_targets(labels, 3, 255)
    assert [c.tolist() for c in targets["class_labels"]] == [[0, 2], []]
    assert targets["mask_labels"][0].tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]
    assert targets["mask_labels"][1].shape == (0, 2, 2)
    with pytest.raises(InputError, match=r"labels in 0..1 or 255, got \[0, 2\]"):
        mask_targets(labels, 2, 255)


@pytest.mark.parametrize("model_type", MASK_TYPES)
def test_own_loss_is_the_models(model_type):
    model = tiny_model_of(model_type)
    images, labels = random_pairs(2, training_size(model.config))
    torch.manual_seed(1)
    output = SemanticForward(model)(model, images, labels)
    torch.manual_seed(1)
    masks = [torch.stack([(image == c).float() for c in range(NUM_LABELS)]) for image in labels]
    expected = model(
        pixel_values=images, mask_labels=masks, class_labels=[torch.arange(NUM_LABELS)] * 2
    )
    torch.testing.assert_close(output.model_loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert SemanticForward(model)(model.eval(), images, labels).model_loss is None


@pytest.mark.parametrize("model_type", MASK_TYPES)
@pytest.mark.parametrize("void", [[0], [0, 1]])
def test_void_images_have_finite_losses_and_gradients(model_type, void):
    model = tiny_model_of(model_type)
    images, labels = random_pairs(2, training_size(model.config))
    labels[void] = 255
    output = SemanticForward(model)(model, images, labels)
    (output.model_loss + output.logits.mean()).backward()
    assert output.model_loss.isfinite()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("model_type", ["mask2former", "maskformer"])
@pytest.mark.parametrize("use_auxiliary_loss", [False, True])
def test_auxiliary_losses_of_the_decoder_can_be_chosen(model_type, use_auxiliary_loss):
    """transformers fails for one value each, unless hidden states are asked for."""
    model = tiny_model_of(model_type, use_auxiliary_loss=use_auxiliary_loss)
    images, labels = random_pairs(2, (64, 64))
    assert SemanticForward(model)(model, images, labels).model_loss > 0


# The whole loss, in the trainer


def train_one_step(folder, model, **arguments):
    images, labels = random_pairs(4, training_size(model.config))
    labels[:2, 20:] = 1  # so that the halves differ
    args = AUCSegTrainingArguments(
        str(folder),
        max_steps=1,
        max_grad_norm=0,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    data = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    trainer = AUCSegTrainer(model, args, train_dataset=data)
    gradients = gradients_after_one_step(trainer)
    return trainer.state.log_history[0], gradients


def model_without_batch_effects(model_type):
    """Batch norm and dropout see a micro-batch alone by definition."""
    model = tiny_model_of(model_type)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, (torch.nn.BatchNorm2d, torch.nn.Dropout)):
                setattr(module, name, torch.nn.Identity())
    return model


def test_auxiliary_loss_is_the_same_loss_at_its_weight(tmp_path):
    model = model_without_batch_effects("dpt")
    reference = copy.deepcopy(model)
    log, gradients = train_one_step(
        tmp_path, model, per_device_train_batch_size=4, auc_weight=0.5, ce_weight=2.0, seed=0
    )
    images, labels = random_pairs(4, training_size(model.config))
    labels[:2, 20:] = 1
    output = SemanticForward(reference)(reference, images)
    main, auxiliary = (
        segmentation_loss(logits, labels, auc_weight=0.5, ce_weight=2.0)
        for logits in (output.logits, *output.auxiliary_logits)
    )
    total = main.loss + 0.4 * auxiliary.loss
    assert log["loss"] == pytest.approx(total.item(), rel=1e-5)
    assert log["loss_aux"] == pytest.approx(auxiliary.loss.item(), rel=1e-5)
    assert log["loss_ce"] == pytest.approx(main.ce.item(), rel=1e-5)
    total.backward()
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "parts"),
    [
        ("dpt", {"loss_ce", "loss_auc", "loss_aux"}),
        ("beit", {"loss_ce", "loss_auc", "loss_aux"}),
        # Its own loss samples no points, and is a mean over images of equally many masks.
        ("maskformer", {"loss_model", "loss_auc"}),
    ],
)
def test_exact_accumulation_equals_one_batch(model_type, parts, tmp_path):
    def run(**arguments):
        return train_one_step(
            tmp_path, model_without_batch_effects(model_type), ce_weight=2.0, **arguments
        )

    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    whole_log, whole = run(per_device_train_batch_size=4)
    exact_log, exact = run(auc_accumulation="exact", **small)
    assert {name for name in exact_log if name.startswith("loss_")} == parts
    for name in ("loss", *parts):
        assert exact_log[name] == pytest.approx(whole_log[name], rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(exact[name], gradient, rtol=1e-3, atol=1e-5)


def test_own_loss_takes_the_place_of_cross_entropy(tmp_path):
    model = tiny_model_of("mask2former")
    log, _ = train_one_step(
        tmp_path, model, per_device_train_batch_size=4, auc_weight=0.5, ce_weight=2.0
    )
    assert log["loss"] == pytest.approx(2 * log["loss_model"] + 0.5 * log["loss_auc"], rel=1e-5)


def test_prediction_of_mask_classification():
    model = tiny_model_of("maskformer").eval()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    processor = SegformerImageProcessor(do_resize=False)
    (labels,) = predict(model, processor, PIL.Image.fromarray(pixels))
    output = model(**processor(pixels, return_tensors="pt"))
    logits = mask_classification_logits(output.class_queries_logits, output.masks_queries_logits)
    upsampled = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear")
    np.testing.assert_array_equal(labels, upsampled[0].argmax(0))


def test_a_type_that_needs_text_is_refused():
    model = torch.nn.Linear(1, 1)
    model.config = OneFormerConfig()
    with pytest.raises(InputError, match=r"oneformer \(it needs text inputs\)"):
        SemanticForward(model)
