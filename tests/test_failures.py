"""What goes wrong in a training step, provoked in the Trainer itself."""

import math

import pytest
import torch
from test_trainer import RandomScenes, make_trainer
from transformers import TrainerCallback

from aucseg_hf import InputError
from aucseg_hf.failures import NonFiniteLoss, is_out_of_memory, non_finite_sentence


class NamedScenes(RandomScenes):
    """Pairs with names, of which one image can be spoilt."""

    def __init__(self, count=8, spoilt=None):
        super().__init__(count)
        for i, pair in enumerate(self.pairs):
            pair["name"] = f"image_{i}.png"
        if spoilt is not None:
            self.pairs[spoilt]["pixel_values"][0, 5, 5] = math.nan


QUICK = {"per_device_train_batch_size": 2, "logging_steps": 1, "seed": 0}


def test_nan_in_an_image_stops_with_step_names_and_culprit(tmp_path):
    trainer = make_trainer(tmp_path, NamedScenes(spoilt=3), max_steps=4, **QUICK)
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.train()
    message = str(caught.value)
    step = trainer.state.global_step + 1
    assert f"at step {step}: the images hold values that are not finite" in message
    assert "image_3.png" in message
    assert "--non_finite_loss skip" in message
    assert all(p.isfinite().all() for p in trainer.model.parameters())


class Spoil(TrainerCallback):
    """Puts NaN into a weight before a step."""

    def __init__(self, parameter, step):
        self.parameter, self.step = parameter, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                self.parameter[0] = math.nan


def test_weights_that_are_not_finite_are_named(tmp_path):
    trainer = make_trainer(tmp_path, NamedScenes(), max_steps=4, **QUICK)
    trainer.add_callback(Spoil(trainer.model.decode_head.classifier.weight, 2))
    with pytest.raises(NonFiniteLoss, match="step 3: the weights decode_head.classifier.weight"):
        trainer.train()


@pytest.mark.parametrize("term", ["loss_ce", "loss_auc"])
def test_the_term_is_named(tmp_path, monkeypatch, term):
    trainer = make_trainer(tmp_path, RandomScenes(), max_steps=1, **QUICK)
    criterion = trainer.training_loss

    def spoilt(logits, labels):
        terms = criterion(logits, labels)
        name = term.removeprefix("loss_")
        return terms._replace(**{name: terms.loss * math.nan, "loss": terms.loss * math.nan})

    monkeypatch.setattr(trainer, "training_loss", spoilt)
    with pytest.raises(
        NonFiniteLoss, match=f"step 1: {term} is not finite; batch: 2 images without names"
    ):
        trainer.train()


def test_gradient_that_is_not_finite_does_not_reach_the_weights(tmp_path):
    trainer = make_trainer(tmp_path, RandomScenes(), max_steps=2, **QUICK)
    trainer.model.decode_head.classifier.weight.register_hook(lambda g: g * math.inf)
    with pytest.raises(NonFiniteLoss, match="gradient is not finite at step 1"):
        trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_skipping_equals_leaving_the_step_out(tmp_path):
    """One pass over four batches: the spoilt one moves neither weights nor batch norms."""
    options = {**QUICK, "max_steps": 4, "non_finite_loss": "skip", "logging_steps": 4}
    trainer = make_trainer(tmp_path, NamedScenes(spoilt=3), lr_scheduler_type="constant", **options)
    seen = []
    keep = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        seen.append(inputs)
        return keep(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    good = [batch for batch in seen if "image_3.png" not in batch["names"]]
    assert (len(seen), len(good)) == (4, 3)
    reference = make_trainer(
        tmp_path, [None], max_steps=3, lr_scheduler_type="constant", **{**QUICK, "logging_steps": 3}
    )
    reference.train_dataset = _Batches(good)
    reference._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(range(6))
    reference.train()
    state, expected = trainer.model.state_dict(), reference.model.state_dict()
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-7)
    (line,) = [h for h in trainer.state.log_history if "loss" in h]
    (other,) = [h for h in reference.state.log_history if "loss" in h]
    assert line["skipped_steps"] == trainer.skipped_steps == 1
    for name in ("loss", "loss_ce", "loss_auc"):
        assert line[name] == pytest.approx(other[name], rel=1e-5)
    assert line["loss"] == pytest.approx(line["loss_ce"] + line["loss_auc"], rel=1e-5)


class _Batches(torch.utils.data.Dataset):
    """The examples of batches, in their order."""

    def __init__(self, batches):
        self.pairs = [
            {"pixel_values": x, "labels": y}
            for batch in batches
            for x, y in zip(batch["pixel_values"], batch["labels"], strict=True)
        ]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def out_of_memory_above(trainer, batch_size, from_step=0):
    """Makes forward passes of more images fail as a full GPU does."""
    keep = trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        if len(inputs["labels"]) > batch_size and trainer.state.global_step >= from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return keep(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss


def test_out_of_memory_says_what_to_lower(tmp_path):
    trainer = make_trainer(tmp_path, RandomScenes(), max_steps=2, per_device_train_batch_size=4)
    out_of_memory_above(trainer, 2)
    with pytest.raises(InputError, match="out of memory with 4 images of 32x32 .*auto_find_batch"):
        trainer.train()


def test_found_batch_size_trains_as_if_it_had_been_given(tmp_path):
    """Weights, bank and random numbers start anew, also when memory ran out after some steps."""
    options = {"max_steps": 3, "tail_classes": ["3"], "logging_steps": 1}
    trainer = make_trainer(
        tmp_path,
        RandomScenes(12),
        per_device_train_batch_size=4,
        auto_find_batch_size=True,
        **options,
    )
    out_of_memory_above(trainer, 3, from_step=1)
    trainer.train()
    expected = make_trainer(tmp_path, RandomScenes(12), per_device_train_batch_size=3, **options)
    expected.train()
    assert trainer._train_batch_size == 3
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=0, atol=0)
    losses = [[h["loss"] for h in t.state.log_history if "loss" in h] for t in (trainer, expected)]
    assert losses[0] == losses[1]
    assert len(trainer.bank) == len(expected.bank) > 0


def test_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    assert is_out_of_memory(RuntimeError("No executable batch size found, reached zero."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_long_batches_are_named_in_part():
    names = [f"{i}.png" for i in range(20)]
    assert "7.png and 12 more" in non_finite_sentence(1, "x", names, 20)


def test_unknown_best_measure_names_the_nearest(tmp_path):
    trainer = make_trainer(
        tmp_path,
        evaluation=RandomScenes(2),
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="mean_iu",
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    with pytest.raises(InputError, match="no measure 'mean_iu'.*did you mean 'mean_iou'"):
        trainer.train()
