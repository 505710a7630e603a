import pytest
import torch
from conftest import tiny_config
from test_trainer import RandomScenes, make_trainer
from tiny_models import TYPES, tiny_model_of
from torch import nn

from aucseg_hf import AUCSegForSemanticSegmentation
from aucseg_hf.optimization import (
    decay_parameter_names,
    encoder_of,
    scale_head_learning_rate,
    wants_sync_batch_norm,
)


def test_norms_and_biases_are_not_decayed(tiny_model):
    decayed = set(decay_parameter_names(tiny_model))
    norms = [m for m in tiny_model.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))]
    in_norms = {id(p) for norm in norms for p in norm.parameters()}
    for name, parameter in tiny_model.named_parameters():
        is_free = id(parameter) in in_norms or name.endswith("bias")
        assert (name in decayed) == (not is_free), name


@pytest.mark.parametrize("batch_norm_name", ["normalization", "bn"])
def test_batch_norms_of_any_name_are_not_decayed(batch_norm_name):
    """Trainer's patterns know "norm" between dots only: MobileNetV2's were decayed."""
    model = nn.Sequential()
    model.add_module(batch_norm_name, nn.BatchNorm2d(3))
    model.add_module("conv", nn.Conv2d(3, 3, 1))
    assert decay_parameter_names(model) == ["conv.weight"]


def test_groups_cover_every_parameter_once_with_their_rate_and_decay(tmp_path):
    trainer = make_trainer(tmp_path, head_learning_rate_scale=10.0, weight_decay=0.1)
    trainer.create_optimizer()
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(found)
    for name, parameter in trainer.model.named_parameters():
        rate = 1e-3 if name.startswith("segformer.") else 1e-2
        decay = 0.1 if parameter.ndim > 1 else 0.0
        assert found[id(parameter)] == pytest.approx((rate, decay)), name


def test_first_step_moves_the_head_ten_times_as_far(tmp_path):
    """The first step of Adam is the learning rate, whatever the gradient."""
    trainer = make_trainer(tmp_path, max_steps=1, weight_decay=0.0, max_grad_norm=0)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moves = {n: (p.detach() - before[n]).abs().max() for n, p in trainer.model.named_parameters()}
    assert moves["decode_head.classifier.weight"].item() == pytest.approx(1e-2, rel=1e-3)
    encoder = [move.item() for name, move in moves.items() if name.startswith("segformer.")]
    assert max(encoder) == pytest.approx(1e-3, rel=1e-3)


def test_schedule_warms_up_and_falls_as_a_power_of_the_rest(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=10,
        warmup_steps=2,
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0},
        logging_steps=1,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    # Logged is the rate of the step that was just taken, the first of which is number 0.
    expected = [1e-3 * (i / 2 if i < 2 else (1 - (i - 2) / 8) ** 0.9) for i in range(10)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, abs=1e-9)
    assert [line["learning_rate_head"] for line in lines] == pytest.approx(
        [10 * rate for rate in expected], abs=1e-8
    )


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_every_type_but_those_without_a_decoder_has_an_encoder(model_type):
    model = tiny_model_of(model_type)
    encoder = encoder_of(model)
    if model_type.startswith("eomt"):
        assert encoder is None
        return
    expected = {n for n, _ in model.named_parameters() if n.startswith(TYPES[model_type][1])}
    in_encoder = {id(p) for p in encoder.parameters()}
    assert {n for n, p in model.named_parameters() if id(p) in in_encoder} == expected


def test_scale_of_one_leaves_the_groups_alone(tiny_model):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-3)
    assert not scale_head_learning_rate(optimizer, tiny_model, 1.0)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("choice", "gpus", "batch", "wanted"),
    [(None, 1, 2, False), (None, 4, 2, True), (None, 4, 8, False), (False, 4, 2, False)],
)
def test_batch_norm_is_shared_by_default_over_gpus_with_small_batches(choice, gpus, batch, wanted):
    assert wants_sync_batch_norm(choice, gpus, batch) is wanted


def test_gradient_is_clipped(tmp_path):
    trainer = make_trainer(tmp_path, RandomScenes(4), max_steps=1, max_grad_norm=0.01)
    norms = []

    def measure(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm().item())

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(measure)
    trainer.train()
    assert norms == pytest.approx([0.01], rel=1e-3)


def test_shared_batch_norm_has_the_same_weights():
    model = AUCSegForSemanticSegmentation(tiny_config())
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in shared.modules())
    plain = AUCSegForSemanticSegmentation(tiny_config())
    assert not plain.load_state_dict(shared.state_dict()).missing_keys
