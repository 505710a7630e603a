import pytest
import torch
from test_trainer import RandomScenes, make_trainer

from aucseg_hf import training_log
from aucseg_hf.training_log import TrainingLog


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_means_are_over_steps_and_time_is_that_of_training(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training_log, "time", clock)
    log = TrainingLog(torch.device("cpu"))
    log.start()
    for value, weight in ((4.0, 0.5), (2.0, 0.5), (6.0, 1.0)):
        log.add({"loss_ce": torch.tensor(value)}, weight, images=8)
        log.finish(weight)
        clock.now += 1.0
    with log.paused():
        clock.now += 100.0
    line = log.means(lambda tensor: tensor, 2)
    assert line["loss_ce"] == pytest.approx((4.0 * 0.5 + 2.0 * 0.5 + 6.0) / 2)
    assert line["images_per_second"] == pytest.approx(2 * 24 / 3)
    assert log.means(lambda tensor: tensor, 2).keys() == set()


def test_ranks_weigh_by_the_steps_they_took():
    """The second rank left out one of its two steps."""
    log = TrainingLog(torch.device("cpu"))
    for value in (1.0, 3.0):
        log.add({"loss_ce": torch.tensor(value)}, 1.0)
        log.finish(1.0)
    line = log.means(lambda tensor: torch.cat([tensor, torch.tensor([8.0, 1.0])]), 2)
    assert line["loss_ce"] == pytest.approx((1.0 + 3.0 + 8.0) / 3)


def test_collected_terms_survive_saving():
    log, other = TrainingLog(torch.device("cpu")), TrainingLog(torch.device("cpu"))
    for target in (log, other):
        target.add({"loss_ce": torch.tensor(2.0)}, 1.0)
        target.finish(1.0)
    other.load_state_dict(log.state_dict())
    for target in (log, other):
        target.add({"loss_ce": torch.tensor(5.0)}, 1.0)
        target.finish(1.0)
    means = [target.means(lambda tensor: tensor, 1)["loss_ce"] for target in (log, other)]
    assert means == [3.5, 3.5]


def test_log_line_of_a_run_has_speed_and_memory(tmp_path):
    trainer = make_trainer(tmp_path, RandomScenes(8), max_steps=2, logging_steps=1)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for line in lines:
        # One step of 8 images within the whole run's time, in a process of torch's size.
        assert line["images_per_second"] > 8 / trainer.state.log_history[-1]["train_runtime"]
        assert 0.1 < line["peak_memory_gb"] < 16
