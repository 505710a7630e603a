"""Two real processes (gloo): evaluation and training equal those of one process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_trainer import RandomScenes, gradients_after_one_step, make_trainer

STEP = {"max_steps": 1, "logging_steps": 1, "max_grad_norm": 0}


def job(folder, batch_size, **arguments):
    """What every process runs; returns what has to be equal."""
    sizes = [(32, 32), (40, 64), (32, 48), (64, 32), (33, 47)]
    trainer = make_trainer(
        folder,
        RandomScenes(8),
        evaluation=RandomScenes(sizes=sizes),
        tail_classes=["3"],
        memory_bank=False,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2,
        **STEP,
        **arguments,
    )
    # Batch norm sees each rank's samples alone: left out, so that ranks can be compared with one
    # process.
    trainer.model.decode_head.batch_norm = torch.nn.Identity()
    metrics = trainer.evaluate()
    gradients = gradients_after_one_step(trainer)
    return trainer, metrics, gradients


def main(folder):
    trainer, metrics, gradients = job(folder, 4)
    if trainer.is_world_process_zero():
        torch.save(gradients, f"{folder}/gradients.pt")
        logs = [line for line in trainer.state.log_history if "loss" in line][0]
        result = {"world_size": trainer.args.world_size, "metrics": metrics, "logs": logs}
        with open(f"{folder}/result.json", "w") as file:
            json.dump(result, file)
    exact = {"gradient_accumulation_steps": 2, "auc_accumulation": "exact"}
    trainer, _, gradients = job(folder, 2, **exact)
    if trainer.is_world_process_zero():
        torch.save(gradients, f"{folder}/gradients_exact.pt")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", __file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    both = json.loads((tmp_path / "result.json").read_text())
    assert both["world_size"] == 2
    trainer, metrics, gradients = job(tmp_path / "one", 8)
    for name in ("mean_iou", "mean_iou_tail", "overall_accuracy", "pixel_auc", "loss"):
        assert both["metrics"][f"eval_{name}"] == pytest.approx(metrics[f"eval_{name}"], rel=1e-6)
    line = [line for line in trainer.state.log_history if "loss" in line][0]
    for name in ("loss", "loss_ce", "loss_auc"):
        assert both["logs"][name] == pytest.approx(line[name], rel=1e-5)
    for file in ("gradients.pt", "gradients_exact.pt"):
        saved = torch.load(tmp_path / file)
        for name, gradient in gradients.items():
            torch.testing.assert_close(saved[name], gradient, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main(sys.argv[1])
