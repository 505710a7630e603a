"""scripts/train.py, killed with SIGKILL and started again, equals a run that was left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import ROOT, assert_same_state, tiny_config, write_pairs
from safetensors.torch import load_file
from test_streaming import write_parquet
from transformers import SegformerImageProcessor

from aucseg_hf import AUCSegForSemanticSegmentation

STEPS = 12
# 12 images by 2 are 6 steps an epoch: checkpoint 3 is in the middle of one, 6 at its end. Log lines
# of every 4 steps lie across checkpoints of every 3.
OPTIONS = {
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 10,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "logging_steps": 4,
    "ema_decay": 0.9,
    "early_stopping_patience": 5,
    "tail_classes": "sign",
    "disable_tqdm": True,
    "use_cpu": True,
}
TIMES = ("images_per_second", "peak_memory_gb", "train_loss")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_pairs(folder / "data", num_train=12, size=(48, 48))
    torch.manual_seed(0)
    config = tiny_config(attention_probs_dropout_prob=0.1, drop_path_rate=0.1)
    AUCSegForSemanticSegmentation(config).save_pretrained(folder / "tiny")
    SegformerImageProcessor(do_resize=False).save_pretrained(folder / "tiny")
    return folder


def command(work, name, processes, *more):
    options = {
        **OPTIONS,
        "dataset": work / "data",
        "model": work / "tiny",
        "output_dir": work / name,
        "per_device_train_batch_size": 2 // processes,
    }
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc_per_node", str(processes)]
    parts = [*start, ROOT / "scripts/train.py"]
    for key, value in options.items():
        parts += [f"--{key}", value]
    return [str(part) for part in [*parts, *more]]


def start(parts):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        parts,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(parts):
    process = start(parts)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[:6000]


def kill_at(parts, checkpoint):
    """Kills the process and its children as soon as the checkpoint is there."""
    process = start(parts)
    limit = time.monotonic() + 240
    while not checkpoint.is_dir() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.002)
    # torchrun gives its workers sessions of their own.
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        victim.kill()
    _, errors = process.communicate()
    assert checkpoint.is_dir(), errors[:6000]
    assert process.returncode == -signal.SIGKILL
    # The process may have come further than the checkpoint that is to be resumed from.
    for later in checkpoint.parent.glob("checkpoint-*"):
        if int(later.name.split("-")[1]) > int(checkpoint.name.split("-")[1]):
            shutil.rmtree(later)


def log_lines(checkpoint):
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return [
        {k: v for k, v in line.items() if k not in TIMES and "runtime" not in k and "per_" not in k}
        for line in state["log_history"]
    ]


def assert_same_run(one, two, processes):
    last = [folder / f"checkpoint-{STEPS}" for folder in (one, two)]
    assert_same_state(*(load_file(folder / "model.safetensors") for folder in last))
    names = ["optimizer.pt", "scheduler.pt", "trained_weights.pt"]
    names += [f"memory_bank_{rank}.pt" for rank in range(processes)]
    for name in names:
        assert_same_state(*(torch.load(folder / name, weights_only=True) for folder in last))
    lines = [log_lines(folder) for folder in last]
    assert lines[0] == lines[1]
    assert sum("loss" in line for line in lines[0]) == STEPS // 4
    assert_same_state(*(load_file(folder / "model.safetensors") for folder in (one, two)))


@pytest.fixture(scope="module")
def whole(work):
    """Runs that are left alone, by number of processes."""
    for processes in (1, 2):
        finish(command(work, f"whole{processes}", processes))
    return {processes: work / f"whole{processes}" for processes in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_started_again_equals_an_uninterrupted_one(work, whole, processes):
    for workers, step in ((0, 3), (2, 6)):
        name = f"cut{processes}_{workers}_{step}"
        parts = command(work, name, processes, "--resume", "--dataloader_num_workers", workers)
        kill_at(parts, work / name / f"checkpoint-{step}")
        finish(parts)
        assert_same_run(whole[processes], work / name, processes)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "cuts"), [(1, [(2, 3), (0, 6)]), (2, [(2, 3)])])
def test_killed_run_on_a_stream_equals_an_uninterrupted_one(work, tmp_path, processes, cuts):
    shards = write_parquet(work / "data", tmp_path / "shards")
    stream = ["--dataset", shards, "--streaming", "--shuffle_buffer", 4]
    whole = tmp_path / "whole"
    finish(command(tmp_path, whole.name, processes, "--model", work / "tiny", *stream))
    for workers, step in cuts:
        name = f"cut_{workers}_{step}"
        parts = command(tmp_path, name, processes, "--model", work / "tiny", *stream)
        parts += ["--resume", "--dataloader_num_workers", str(workers)]
        kill_at(parts, tmp_path / name / f"checkpoint-{step}")
        finish(parts)
        assert_same_run(whole, tmp_path / name, processes)


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(work, whole):
    parts = command(work, "stopped", 1, "--resume")
    process = start(parts)
    limit = time.monotonic() + 240
    while not (work / "stopped/checkpoint-3").is_dir() and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors[:6000]
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    step = int(last.split("stopped after step ")[1].split(";")[0])
    assert step < STEPS
    assert f"checkpoint-{step} is saved" in last
    assert "--resume" in last
    finish(parts)
    assert_same_run(whole[1], work / "stopped", 1)
