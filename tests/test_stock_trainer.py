"""What transformers' own Trainer does today, beside what AUCSegTrainer does: docs/training.md.

Each test first pins the fault in the installed release, then what holds here. Where a newer release
has mended it, the first half fails: then the row of the table, and perhaps our code, can go.
"""

import math
import os
import shutil

import pytest
import torch
from conftest import tiny_config
from test_failures import out_of_memory_above
from test_trainer import RandomScenes, make_trainer
from tiny_models import tiny_model_of
from transformers import SegformerForSemanticSegmentation, Trainer, TrainingArguments

from aucseg_hf.data.dataset import collate


def stock_trainer(folder, train=None, evaluation=None, config=None, **arguments):
    torch.manual_seed(0)
    defaults = {
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
        "remove_unused_columns": False,
    }
    return Trainer(
        SegformerForSemanticSegmentation(config or tiny_config()),
        TrainingArguments(str(folder), **{**defaults, **arguments}),
        data_collator=collate,
        train_dataset=train or RandomScenes(),
        eval_dataset=evaluation,
    )


def first_loss(trainer):
    trainer.train()
    return next(line["loss"] for line in trainer.state.log_history if "loss" in line)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_loss_scale_under_gradient_accumulation(tmp_path, accumulation):
    def loss(make, name, **options):
        steps = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "seed": 0}
        return first_loss(make(tmp_path / name, RandomScenes(8), **steps, **options))

    whole = {"per_device_train_batch_size": 8}
    parts = {
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    ratio = loss(stock_trainer, "a", **parts) / loss(stock_trainer, "b", **whole)
    assert ratio == pytest.approx(accumulation, rel=0.05)
    # Batch norm sees other batches, so that the losses are alike and not equal; with exact
    # accumulation and without batch norm tests/test_accumulation.py has them equal.
    ratio = loss(make_trainer, "c", **parts) / loss(make_trainer, "d", **whole)
    assert ratio == pytest.approx(1, rel=0.05)


def saved_and_resumed(make, folder):
    """Weights of a checkpoint, and those that resuming from it trains on from."""
    make(folder, max_steps=1, save_strategy="steps", save_steps=1).train()
    resumed = make(folder, max_steps=1)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    saved = SegformerForSemanticSegmentation.from_pretrained(folder / "checkpoint-1")
    return saved.state_dict(), resumed.model.state_dict()


def test_weights_of_a_resumed_run(tmp_path):
    def restored(make, name):
        torch.manual_seed(1)
        saved, resumed = saved_and_resumed(make, tmp_path / name)
        return sum(torch.equal(value, resumed[name]) for name, value in saved.items())

    def other_start(make):
        def start(*args, **kwargs):
            trainer = make(*args, **kwargs)
            for parameter in trainer.model.parameters():
                torch.nn.init.normal_(parameter)
            return trainer

        return start

    total = len(tiny_model_of("segformer").state_dict())
    assert restored(other_start(stock_trainer), "stock") < total / 4
    assert restored(other_start(make_trainer), "ours") == total


def test_batch_without_a_labelled_pixel(tmp_path):
    def loss(make, name, **options):
        data = RandomScenes(4)
        for pair in data.pairs:
            pair["labels"].fill_(255)
        steps = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no"}
        return first_loss(make(tmp_path / name, data, **steps, **options))

    assert math.isnan(loss(stock_trainer, "a", logging_nan_inf_filter=False))
    # By default any loss that is not finite is hidden, also where training has broken down.
    assert loss(stock_trainer, "b") == 0.0
    assert loss(make_trainer, "c") == 0.0


def test_evaluation_on_images_of_different_sizes(tmp_path):
    data = RandomScenes(sizes=[(32, 32), (40, 64), (32, 48)])
    options = {"per_device_eval_batch_size": 1}
    stock = stock_trainer(tmp_path, evaluation=data, **options)
    stock.compute_metrics = lambda prediction: {}
    with pytest.raises(Exception, match="(?i)size|shape|stack|dimension|broadcast"):
        stock.evaluate()
    trainer = make_trainer(tmp_path, evaluation=data, **options)
    assert 0 <= trainer.evaluate()["eval_mean_iou"] <= 1


def test_torn_checkpoint(tmp_path):
    def resume(make, name):
        folder = tmp_path / name
        make(folder, max_steps=2, save_strategy="steps", save_steps=1).train()
        file = folder / "checkpoint-2" / "model.safetensors"
        os.truncate(file, file.stat().st_size // 2)
        make(folder, max_steps=3, save_strategy="no").train(resume_from_checkpoint=True)

    with pytest.raises(Exception, match="(?i)incomplete|header|deserializ"):
        resume(stock_trainer, "stock")
    resume(make_trainer, "ours")


def test_start_after_memory_ran_out(tmp_path):
    """auto_find_batch_size: the smaller batch has to start from the first weights."""

    def loss(make, name):
        trainer = make(
            tmp_path / name,
            RandomScenes(12),
            max_steps=6,
            logging_steps=1,
            per_device_train_batch_size=4,
            auto_find_batch_size=True,
            save_strategy="no",
            learning_rate=1e-2,
        )
        out_of_memory_above(trainer, 3, from_step=2)
        trainer.train()
        fresh = make(
            tmp_path / name,
            RandomScenes(12),
            max_steps=6,
            logging_steps=1,
            per_device_train_batch_size=3,
            save_strategy="no",
            learning_rate=1e-2,
        )
        return first_loss(fresh), [h["loss"] for h in trainer.state.log_history if "loss" in h][0]

    fresh, found = loss(stock_trainer, "stock")
    assert not math.isclose(fresh, found, rel_tol=1e-3)
    fresh, found = loss(make_trainer, "ours")
    assert fresh == found


def test_weight_decay_of_batch_norms(tmp_path):
    """MobileNetV2 calls them "normalization", which Trainer's patterns do not know."""
    model = tiny_model_of("mobilenet_v2")
    norms = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    stock = stock_trainer(tmp_path).get_decay_parameter_names(model)
    ours = make_trainer(tmp_path).get_decay_parameter_names(model)
    assert norms
    assert set(norms) <= set(stock)
    assert not set(norms) & set(ours)


def test_token_in_the_saved_arguments(tmp_path):
    args = TrainingArguments(str(tmp_path), report_to="none", hub_token="hf_secret")
    torch.save(args, tmp_path / "training_args.bin")
    assert b"hf_secret" in (tmp_path / "training_args.bin").read_bytes()
    shutil.rmtree(tmp_path)
    with pytest.raises(ValueError, match="HF_TOKEN"):
        make_trainer(tmp_path, hub_token="hf_secret")
