import json
import subprocess

import pytest
import yaml
from conftest import assert_same_state
from safetensors.torch import load_file
from test_scripts import QUICK, run_here, save_tiny_model

from aucseg_hf.run_record import git_revision


def log_lines(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [
        {k: v for k, v in line.items() if "per_second" not in k and "runtime" not in k}
        for line in state["log_history"]
    ]


@pytest.mark.slow
def test_a_run_is_repeated_bit_for_bit_from_its_record(pairs, tmp_path, monkeypatch, capsys):
    """Also what the model does at random, and what is no default."""
    model = save_tiny_model(tmp_path / "tiny")
    config = json.loads((model / "config.json").read_text())
    config |= {"attention_probs_dropout_prob": 0.1, "drop_path_rate": 0.1}
    (model / "config.json").write_text(json.dumps(config))
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--dataset", pairs, "--model", model, "--output_dir", one, *QUICK]
    options += ["--seed", 7, "--max_steps", 5, "--logging_steps", 1, "--surrogate", "exp"]
    options += ["--tail_classes", "sign", "--crop_size", 40, 32, "--lr_scheduler_type", "cosine"]
    result = run_here(monkeypatch, capsys, "train", *options)
    assert result.returncode == 0, result.stderr
    result = run_here(monkeypatch, capsys, "train", one / "run.yaml", "--output_dir", two)
    assert result.returncode == 0, result.stderr
    assert_same_state(load_file(one / "model.safetensors"), load_file(two / "model.safetensors"))
    lines = [log_lines(folder) for folder in (one, two)]
    for line in (line for run in lines for line in run):
        line.pop("peak_memory_gb", None)
    assert lines[0] == lines[1]
    recipes = [yaml.safe_load((folder / "run.yaml").read_text()) for folder in (one, two)]
    assert recipes[0] | {"output_dir": None} == recipes[1] | {"output_dir": None}
    assert recipes[0]["surrogate"] == "exp"
    environment = json.loads((one / "environment.json").read_text())
    assert environment["settings"]["tail_classes"] == [3]
    assert (environment["seed"], environment["num_processes"]) == (7, 1)
    assert environment["versions"].keys() >= {"torch", "transformers", "datasets", "accelerate"}


def test_revision_is_that_of_the_working_directory(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True, cwd=tmp_path)
    subprocess.run([*git, "commit", "-qm", "one"], check=True, cwd=tmp_path)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, cwd=tmp_path, capture_output=True, text=True
    ).stdout.strip()
    monkeypatch.chdir(tmp_path)
    assert git_revision() == head
    (tmp_path / "file").write_text("2")
    assert git_revision() == f"{head}-dirty"


def test_without_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() is None
