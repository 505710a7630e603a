"""The record of a run: every setting as a recipe that repeats it, and where it ran."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainingArguments

from aucseg_hf.cli import whole_file

RECIPE = "run.yaml"
ENVIRONMENT = "environment.json"

_PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "aucseg-hf")
# How a run was started and where its process sits say nothing about what it computes.
_NOT_A_SETTING = (
    "resume",
    "resume_from_checkpoint",
    "hub_token",
    "push_to_hub_token",
    "local_rank",
)


def write_run_record(
    folder: str | Path, arguments: Sequence[Any], settings: Mapping[str, Any] | None = None
) -> None:
    """Writes `run.yaml`, a recipe of every argument, and `environment.json` into a run's folder.

    `python scripts/train.py run.yaml` repeats the run, on the same machine bit for bit.

    Args:
        folder: The output folder.
        arguments: The dataclasses of the command line, `TrainingArguments` among them.
        settings: What the arguments left to the model and the data: the method's settings in force.
    """
    recipe: dict[str, Any] = {}
    for part in arguments:
        recipe |= _plain(part)
    with whole_file(Path(folder, RECIPE)) as file:
        content = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        file.write_text(
            f"# Every setting of this run; a script that takes a recipe repeats it.\n{content}",
            encoding="utf-8",
        )
    training = next(part for part in arguments if isinstance(part, TrainingArguments))
    environment = {
        "command": shlex.join(sys.argv),
        "versions": versions(),
        "git_revision": git_revision(),
        "seed": training.seed,
        "data_seed": training.seed if training.data_seed is None else training.data_seed,
        "num_processes": training.world_size,
        "num_threads": torch.get_num_threads(),
        "settings": settings,
    }
    with whole_file(Path(folder, ENVIRONMENT)) as file:
        file.write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")


def _plain(part: Any) -> dict[str, Any]:
    """The init fields of a dataclass as YAML knows them."""
    values = part.to_dict() if isinstance(part, TrainingArguments) else asdict(part)
    names = [field.name for field in fields(part) if field.init]
    # TrainingArguments has settings that JSON knows and YAML does not, such as enumerations.
    kept = {name: values[name] for name in names if name not in _NOT_A_SETTING}
    return json.loads(json.dumps(kept, default=str))


def versions() -> dict[str, str]:
    """Versions of what decides a result, and the device it was computed on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return {
        **{name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "device": device or platform.machine(),
    }


def git_revision() -> str | None:
    """The revision of the repository in the working directory, "-dirty" with changes, or None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=10, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
