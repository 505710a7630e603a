import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, tiny_config
from test_trainer import make_trainer

from aucseg_hf import AUCSegForSemanticSegmentation, InputError
from aucseg_hf.checkpoints import (
    MANIFEST,
    checkpoints_in,
    damage,
    newest_whole_checkpoint,
    set_aside,
    whole_checkpoint,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, max_steps=3, save_strategy="steps", save_steps=1).train()
    return folder


@pytest.fixture
def three(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth", "config.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", [truncate, flip_a_byte, os.remove])
def test_damaged_checkpoint_is_passed_over(three, file, harm, caplog):
    harm(three / "checkpoint-3" / file)
    assert file in damage(three / "checkpoint-3")
    assert newest_whole_checkpoint(three) == three / "checkpoint-2"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_truncated_checkpoint_of_another_program_is_passed_over(three, file):
    """Without a manifest: lengths that the files themselves tell."""
    for checkpoint in checkpoints_in(three):
        (checkpoint / MANIFEST).unlink()
    assert newest_whole_checkpoint(three) == three / "checkpoint-3"
    truncate(three / "checkpoint-3" / file)
    assert newest_whole_checkpoint(three) == three / "checkpoint-2"


def test_resume_takes_the_newest_whole_checkpoint_and_sets_the_torn_one_aside(three):
    truncate(three / "checkpoint-3" / "model.safetensors")
    trainer = make_trainer(three, max_steps=4, resume=True, save_strategy="no")
    trainer.train()
    assert trainer._initial_global_step == 2
    assert [path.name for path in checkpoints_in(three)] == ["checkpoint-2", "checkpoint-1"]
    assert [path.name for path in checkpoints_in(three / "earlier-1")] == ["checkpoint-3"]


def test_resume_starts_where_there_is_no_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, resume=True, save_strategy="no")
    assert trainer.train().global_step == 1
    with pytest.raises(InputError, match="expected a whole checkpoint-N"):
        trainer.train(resume_from_checkpoint=True)


def test_named_checkpoint_has_to_be_whole(three):
    truncate(three / "checkpoint-2" / "optimizer.pt")
    with pytest.raises(InputError, match=r"optimizer.pt has \d+ bytes instead of"):
        make_trainer(three, max_steps=4).train(str(three / "checkpoint-2"))


def test_checkpoint_of_a_larger_model_is_refused(three):
    config = tiny_config(hidden_sizes=[8, 16, 16, 16])
    trainer = make_trainer(three, config=config, max_steps=4, resume=True)
    with pytest.raises(
        InputError, match=r"hidden sizes \[8, 8, 16, 16\] but the model has \[8, 16"
    ):
        trainer.train()


def test_checkpoints_of_an_earlier_run_are_set_aside(three):
    (three / ".checkpoint-4.part").mkdir()
    assert set_aside(three) == three / "earlier-1"
    assert checkpoints_in(three) == []
    assert len(checkpoints_in(three / "earlier-1")) == 3
    assert not list(three.glob(".*"))
    assert set_aside(three) is None


def interrupted_save(folder):
    with whole_checkpoint(folder, True, lambda: None) as part:
        (part / "a.bin").write_bytes(b"123")
        raise KeyError


def test_checkpoint_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "checkpoint-1"
    with whole_checkpoint(folder, True, lambda: None) as part:
        (part / "a.bin").write_bytes(b"123")
        assert not folder.exists()
    assert damage(folder) is None
    with pytest.raises(KeyError):
        interrupted_save(tmp_path / "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_best_checkpoint_is_kept_and_known_on_disk(tmp_path):
    """With save_total_limit=1 the best and the newest stay; the state names the best."""
    trainer = make_trainer(
        tmp_path,
        evaluation=make_trainer(tmp_path / "x").train_dataset,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        metric_for_best_model="loss",
        load_best_model_at_end=True,
    )
    trainer.train()
    losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    best = losses.index(min(losses)) + 1
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert (tmp_path / f"checkpoint-{best}").is_dir()
    saved = AUCSegForSemanticSegmentation.from_pretrained(tmp_path / f"checkpoint-{best}")
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=0, atol=0)


FULL_DISK = """
import resource, sys
from transformers import TrainerCallback
from test_trainer import make_trainer
from aucseg_hf import InputError

class Fill(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        # From here on no file can grow beyond 20 kB: writing fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

trainer = make_trainer(sys.argv[1], max_steps=4, save_strategy="steps", save_steps=2)
trainer.add_callback(Fill())
try:
    trainer.train()
except InputError as error:
    sys.exit(f"error: {error}")
"""


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert "cannot write the checkpoint" in result.stderr, result.stderr
    assert "checkpoint-2 is whole" in result.stderr
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]
