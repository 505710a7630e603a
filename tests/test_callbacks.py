import os
import signal

import pytest
from test_trainer import RandomScenes, make_trainer
from transformers import TrainerCallback

from aucseg_hf import InputError
from aucseg_hf.callbacks import ProgressBar
from aucseg_hf.checkpoints import newest_whole_checkpoint


class Signal(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_training_with_a_checkpoint_that_stays(tmp_path, number):
    """Trainer deletes all but the best at the end where save_total_limit is 1."""
    before = signal.getsignal(number)
    options = {
        "evaluation": RandomScenes(2),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "tail_classes": ["3"],
    }
    trainer = make_trainer(tmp_path, **options)
    trainer.add_callback(Signal(number, 4))
    with pytest.raises(KeyboardInterrupt, match="stopped after step 5; .*checkpoint-5 is saved"):
        trainer.train()
    assert signal.getsignal(number) is before
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    resumed = make_trainer(tmp_path, resume=True, **options)
    assert resumed.train().global_step == 6
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    losses = [
        [line["eval_loss"] for line in t.state.log_history if "eval_loss" in line]
        for t in (resumed, whole)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_bar_shows_loss_and_tail(tmp_path):
    trainer = make_trainer(
        tmp_path,
        evaluation=RandomScenes(2),
        max_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="no",
        disable_tqdm=False,
        tail_classes=["3"],
    )
    trainer.train()
    (bar,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, ProgressBar)]
    *_, logged, evaluated, _ = trainer.state.log_history
    assert bar._shown["loss"] == f"{logged['loss']:.3g}"
    assert bar._shown["tail mIoU"] == f"{evaluated['eval_mean_iou_tail']:.3g}"


def test_training_stops_early_when_the_measure_does(tmp_path):
    """With a learning rate of 0 the first evaluation stays the best."""
    trainer = make_trainer(
        tmp_path,
        RandomScenes(4),
        evaluation=RandomScenes(2),
        max_steps=20,
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        early_stopping_patience=3,
    )
    # Batch norms follow the data even so: their part is left out.
    for module in trainer.model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 0.0
    trainer.train()
    assert trainer.args.metric_for_best_model == "mean_iou"
    assert trainer.state.global_step == 4


def test_early_stopping_without_evaluation_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs evaluations"):
        make_trainer(tmp_path, early_stopping_patience=3)
