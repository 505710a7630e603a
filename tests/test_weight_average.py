import pytest
import torch
from conftest import assert_same_state
from safetensors.torch import load_file
from test_trainer import RandomScenes, make_trainer
from torch import nn

from aucseg_hf import AUCSegForSemanticSegmentation, InputError
from aucseg_hf.weight_average import WeightAverage


def test_follows_the_weights_as_the_formula_says():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.5)
    expected = 1.0
    for step, value in enumerate([3.0, 5.0, 2.0, 8.0], start=1):
        nn.init.constant_(model.weight, value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 8.0


def test_average_is_put_back_after_an_error():
    model = nn.Linear(1, 1)
    before = model.weight.item()
    average = WeightAverage(model, 0.9)
    nn.init.constant_(model.weight, 7.0)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert model.weight.item() == 7.0
    average.apply()
    assert model.weight.item() == before


def test_trainer_evaluates_saves_and_keeps_the_average(tmp_path):
    trainer = make_trainer(
        tmp_path,
        evaluation=RandomScenes(4),
        max_steps=3,
        ema_decay=0.9,
        learning_rate=1e-2,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    initial = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    expected = initial
    for step in (1, 2, 3):
        folder = tmp_path / f"checkpoint-{step}"
        trained = torch.load(folder / "trained_weights.pt", weights_only=True)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {n: decay * v + (1 - decay) * trained[n] for n, v in expected.items()}
        saved = AUCSegForSemanticSegmentation.from_pretrained(folder)
        for name, value in saved.named_parameters():
            torch.testing.assert_close(value, expected[name])
    # What is evaluated is what is saved, and what the model has in the end.
    last = trainer.state.log_history[-2]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(last["eval_loss"], rel=1e-5)
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value, expected[name])
    trainer.save_model()
    assert_same_state(
        load_file(tmp_path / "model.safetensors"),
        load_file(tmp_path / "checkpoint-3" / "model.safetensors"),
    )


def test_decay_has_to_lie_between_0_and_1(tmp_path):
    with pytest.raises(InputError, match="ema_decay between 0 and 1, got 1.5"):
        make_trainer(tmp_path, ema_decay=1.5)
