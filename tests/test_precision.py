"""Switches of precision and speed: the same training, as far as rounding allows."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_trainer import RandomScenes, make_trainer

# transformers and accelerate keep some choices for the whole process.
SCRIPT = """
import json, sys
import torch
from test_precision import train
print("RESULT", json.dumps(train(sys.argv[1], **json.loads(sys.argv[2]))))
"""


def train(folder, **options):
    """Losses of four steps, the dtype the decoder ran in, and whether the optimizer is fused."""
    trainer = make_trainer(
        folder,
        RandomScenes(8),
        max_steps=4,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="no",
        tail_classes=["3"],
        **options,
    )
    dtypes = set()
    trainer.model.decode_head.classifier.register_forward_hook(
        lambda module, inputs, output: dtypes.add(str(output.dtype))
    )
    trainer.train()
    return {
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "dtypes": sorted(dtypes),
        "fused": trainer.optimizer.param_groups[0].get("fused"),
    }


def train_apart(folder, **options):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(options)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT "))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "options",
    [
        {"channels_last": True},
        {"activation_checkpointing": True},
        {"optim": "adamw_torch"},
    ],
    ids=str,
)
def test_switch_changes_nothing_but_rounding(tmp_path, plain, options):
    result = train(tmp_path, **options)
    assert result["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    assert result["dtypes"] == ["torch.float32"]
    assert plain["fused"] is True
    assert bool(result["fused"]) == ("optim" not in options)


def test_channels_last_reaches_the_model(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, channels_last=True)
    seen = []
    trainer.model.segformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or [kwargs["pixel_values"]])[0]),
        with_kwargs=True,
    )
    trainer.train()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    kernel = trainer.model.decode_head.linear_fuse.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_bfloat16_trains_within_its_rounding(tmp_path, plain):
    result = train_apart(tmp_path, bf16=True)
    assert result["dtypes"] == ["torch.bfloat16"]
    assert result["losses"] == pytest.approx(plain["losses"], rel=2e-2)
    assert result["losses"] != plain["losses"]


@pytest.mark.slow
def test_compiled_model_trains_the_same(tmp_path, plain):
    result = train_apart(tmp_path, torch_compile=True, torch_compile_backend="eager")
    assert result["losses"] == pytest.approx(plain["losses"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_trains_within_its_rounding(tmp_path, plain):
    result = train_apart(tmp_path, fp16=True, use_cpu=False)
    assert result["losses"] == pytest.approx(plain["losses"], rel=2e-2)
