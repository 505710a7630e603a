import json
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_same_state, tiny_config, write_pairs
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import SegformerImageProcessor

from aucseg_hf import (
    AUCSegForSemanticSegmentation,
    AUCSegTrainer,
    AUCSegTrainingArguments,
    ClassStatistics,
    InputError,
    SegmentationDataset,
    SegmentationMetrics,
    TrainAugmentation,
    load_benchmark,
    segmentation_loss,
)


class RandomScenes(Dataset):
    """Fixed random pairs; class 3 is rare, and a strip is void."""

    def __init__(self, count=8, size=32, sizes=None):
        generator = torch.Generator().manual_seed(0)
        sizes = sizes or [(size, size)] * count
        self.pairs = []
        for i, (height, width) in enumerate(sizes):
            labels = torch.randint(0, 3, (height, width), generator=generator)
            labels[:3] = 255
            if i % 2:
                labels[8:14, 8:14] = 3
            pixels = torch.randn(3, height, width, generator=generator)
            self.pairs.append({"pixel_values": pixels, "labels": labels})

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def make_trainer(
    folder,
    train=None,
    evaluation=None,
    config=None,
    statistics=None,
    trainer_class=AUCSegTrainer,
    **arguments,
):
    torch.manual_seed(0)
    model = AUCSegForSemanticSegmentation(config or tiny_config())
    defaults = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3}
    args = AUCSegTrainingArguments(str(folder), **{**defaults, **arguments})
    return trainer_class(
        model,
        args,
        class_statistics=statistics,
        train_dataset=train or RandomScenes(),
        eval_dataset=evaluation,
    )


def gradients_after_one_step(trainer):
    """Gradients at the only optimizer step, read before they are used."""
    kept = {}

    def keep(optimizer, *_):
        model = trainer.accelerator.unwrap_model(trainer.model)
        named = model.named_parameters()
        kept.update({n: p.grad.clone() for n, p in named if p.grad is not None})

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train()
    return kept


def test_accumulated_gradient_is_the_mean_of_the_micro_batches(tmp_path):
    """Stock Trainer does not divide the loss here: the models ignore num_items_in_batch."""
    data = RandomScenes(4)
    trainer = make_trainer(
        tmp_path,
        data,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=1,
        logging_steps=1,
        max_grad_norm=0,
        memory_bank=False,
    )
    torch.manual_seed(0)
    reference = AUCSegForSemanticSegmentation(tiny_config()).train()
    # Batch norm follows each micro-batch alone in both.
    losses = []
    for example in data.pairs:
        logits = reference(example["pixel_values"][None]).logits
        loss = segmentation_loss(logits, example["labels"][None]).loss / 4
        loss.backward()
        losses.append(loss.item())
    gradients = gradients_after_one_step(trainer)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(losses), rel=1e-5)


def test_logged_components_add_up_to_the_logged_loss(tmp_path):
    trainer = make_trainer(
        tmp_path,
        RandomScenes(12),
        max_steps=6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=2,
        auc_weight=0.5,
        ce_weight=2.0,
        tail_classes=["3"],
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 3
    for line in lines:
        expected = 2 * line["loss_ce"] + 0.5 * line["loss_auc"]
        assert line["loss"] == pytest.approx(expected, rel=1e-4)
    assert lines[-1]["bank_entries"] == 5
    assert lines[-1]["pasted_share"] > 0


def test_settings_come_from_arguments_then_model_then_defaults(tmp_path):
    config = tiny_config(aucseg={"auc_weight": 3.0, "surrogate": "exp"})
    trainer = make_trainer(tmp_path, config=config, auc_weight=0.25)
    settings = trainer.model.config.aucseg
    assert (settings["auc_weight"], settings["surrogate"], settings["gamma"]) == (0.25, "exp", 1.0)
    assert trainer.bank is None


def test_tail_classes_by_name_and_by_statistics(tmp_path, pairs):
    config = tiny_config(id2label={0: "sky", 1: "road", 2: "car", 3: "sign"})
    trainer = make_trainer(tmp_path, config=config, tail_classes=["sign", "0"])
    assert sorted(trainer.model.config.aucseg["tail_classes"]) == [0, 3]
    statistics = ClassStatistics.from_dataset(load_benchmark(pairs, split="train"), 4)
    trainer = make_trainer(tmp_path, statistics=statistics)
    assert trainer.model.config.aucseg["tail_classes"] == [3]
    assert trainer.groups["head"] == [0, 1, 2]
    for missing in ("bicycle", "7"):
        with pytest.raises(InputError, match=missing):
            make_trainer(tmp_path, tail_classes=[missing])
    with pytest.raises(InputError, match="-1"):
        make_trainer(tmp_path, auc_weight=-1.0)


def test_bank_is_used_in_training_only(tmp_path):
    trainer = make_trainer(tmp_path, evaluation=RandomScenes(4), tail_classes=["3"])
    trainer.bank(torch.randn(1, 3, 32, 32), torch.full((1, 32, 32), 3))
    before = trainer.bank.state_dict()
    with_bank = trainer.evaluate()
    after = trainer.bank.state_dict()
    assert_same_state(before, after)
    trainer.bank = None
    without = trainer.evaluate()
    assert with_bank["eval_loss"] == without["eval_loss"]
    assert with_bank["eval_mean_iou"] == without["eval_mean_iou"]


def test_evaluation_equals_metrics_over_all_images_of_any_size(tmp_path):
    sizes = [(32, 32), (40, 64), (32, 48), (64, 32), (33, 47)]
    data = RandomScenes(sizes=sizes)
    trainer = make_trainer(
        tmp_path, evaluation=data, tail_classes=["3"], per_device_eval_batch_size=2
    )
    result = trainer.evaluate()
    expected = SegmentationMetrics(4)
    model = trainer.model.eval()
    for example in data.pairs:
        with torch.no_grad():
            logits = model(example["pixel_values"][None]).logits
        full = torch.nn.functional.interpolate(
            logits, size=example["labels"].shape, mode="bilinear"
        )
        expected.update(full.argmax(1), example["labels"][None])
    expected = expected.compute()
    assert result["eval_mean_iou"] == pytest.approx(expected["mean_iou"], abs=1e-12)
    np.testing.assert_allclose(
        trainer.last_evaluation["per_category_iou"], expected["per_category_iou"]
    )
    assert result["eval_mean_iou_tail"] == pytest.approx(expected["per_category_iou"][3])
    assert "eval_pixel_auc" in result


def test_learns_an_easy_task_and_loads_its_best_checkpoint(tmp_path):
    folder = write_pairs(tmp_path / "data", num_train=12, num_val=4, size=(64, 64))
    benchmark = load_benchmark(folder)
    processor = SegformerImageProcessor(do_resize=False)
    rule = benchmark.info.label_rule
    trainer = make_trainer(
        tmp_path / "run",
        SegmentationDataset(
            benchmark["train"], rule, processor, TrainAugmentation((64, 64), (0.8, 1.2))
        ),
        SegmentationDataset(benchmark["val"], rule, processor),
        max_steps=60,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        tail_classes=["3"],
        eval_strategy="steps",
        eval_steps=20,
        save_strategy="steps",
        save_steps=20,
        load_best_model_at_end=True,
    )
    trainer.train()
    scores = [h["eval_mean_iou"] for h in trainer.state.log_history if "eval_mean_iou" in h]
    assert trainer.state.best_metric == max(scores)
    assert max(scores) > 0.6
    assert trainer.evaluate()["eval_mean_iou"] == pytest.approx(max(scores), abs=1e-9)


def test_best_weights_and_resumed_weights_are_really_loaded(tmp_path):
    """transformers' own loader matches 8 of SegFormer's tensors, and only warns."""
    trainer = make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-1"
    saved = AUCSegForSemanticSegmentation.from_pretrained(checkpoint).state_dict()
    assert any(not torch.equal(v, saved[k]) for k, v in trainer.model.state_dict().items())
    trainer.state.best_model_checkpoint = str(checkpoint)
    trainer._load_best_model()
    for key, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, saved[key], rtol=0, atol=0)


@pytest.mark.parametrize("stop", [3, 4])
def test_resume_equals_an_uninterrupted_run(tmp_path, stop):
    """Weights, bank and logs, from the middle of an epoch (4 steps each) and from its end."""
    folder = write_pairs(tmp_path / "data", num_train=8, size=(48, 48))
    benchmark = load_benchmark(folder)

    def run(name, **kwargs):
        dataset = SegmentationDataset(
            benchmark["train"],
            benchmark.info.label_rule,
            SegformerImageProcessor(),
            TrainAugmentation((32, 32)),
        )
        trainer = make_trainer(
            tmp_path / name,
            dataset,
            config=tiny_config(attention_probs_dropout_prob=0.1),
            max_steps=8,
            per_device_train_batch_size=2,
            save_strategy="steps",
            save_steps=1,
            logging_steps=1,
            tail_classes=["3"],
        )
        trainer.train(**kwargs)
        return trainer

    whole = run("whole")
    shutil.copytree(
        tmp_path / "whole" / f"checkpoint-{stop}", tmp_path / "cut" / f"checkpoint-{stop}"
    )
    resumed = run("cut", resume_from_checkpoint=True)
    for name in ("whole", "cut"):
        assert (tmp_path / name / "checkpoint-8" / "memory_bank_0.pt").is_file()
    assert_same_state(
        load_file(tmp_path / "whole/checkpoint-8/model.safetensors"),
        load_file(tmp_path / "cut/checkpoint-8/model.safetensors"),
    )
    assert_same_state(resumed.bank.state_dict(), whole.bank.state_dict())
    losses = [[h["loss"] for h in t.state.log_history if "loss" in h] for t in (whole, resumed)]
    assert losses[0] == losses[1]


def test_checkpoint_of_another_class_count_is_refused(tmp_path):
    make_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    trainer = make_trainer(tmp_path, config=tiny_config(num_labels=6), max_steps=2)
    with pytest.raises(InputError, match="4 classes but the model has 6"):
        trainer.train(resume_from_checkpoint=True)


def test_bank_saved_by_more_processes_is_dealt_anew(tmp_path, caplog):
    trainer = make_trainer(
        tmp_path, max_steps=2, save_strategy="steps", save_steps=2, tail_classes=["3"]
    )
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copy(checkpoint / "memory_bank_0.pt", checkpoint / "memory_bank_1.pt")
    resumed = make_trainer(tmp_path, max_steps=3, tail_classes=["3"])
    resumed.train(resume_from_checkpoint=True)
    assert len(resumed.bank) == 5


def test_all_ignored_batches_train_without_nan(tmp_path):
    data = RandomScenes(4)
    for pair in data.pairs:
        pair["labels"].fill_(255)
    trainer = make_trainer(
        tmp_path, data, evaluation=data, max_steps=2, logging_steps=1, tail_classes=["3"]
    )
    trainer.train()
    assert [h["loss"] for h in trainer.state.log_history if "loss" in h] == [0.0, 0.0]
    assert trainer.evaluate()["eval_loss"] == 0


def test_settings_in_force_are_saved_with_the_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, auc_weight=0.5, tail_classes=["3"], max_steps=1)
    trainer.train()
    trainer.save_model()
    saved = json.loads((tmp_path / "config.json").read_text())["aucseg"]
    assert (saved["auc_weight"], saved["tail_classes"]) == (0.5, [3])
