"""Checkpoint folders: told whole from torn, found, and set aside."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from aucseg_hf.errors import InputError

logger = logging.get_logger(__name__)

MANIFEST = "files.json"
"""Holds size and CRC-32 of every file of a checkpoint."""

_CHUNK = 1 << 22
_WHAT_A_MODEL_HAS = {
    "model_type": "model type {}",
    "num_labels": "{} classes",
    "hidden_sizes": "hidden sizes {}",
    "hidden_size": "hidden size {}",
    "depths": "depths {}",
}


@contextmanager
def whole_checkpoint(
    folder: str | Path, is_writer: bool, wait_for_everyone: Callable[[], None]
) -> Iterator[Path]:
    """Gives a temporary folder that becomes the checkpoint when every process has written its part.

    Args:
        folder: Where the checkpoint is to be.
        is_writer: Whether this process makes, checks and renames the folder.
        wait_for_everyone: A barrier over all processes.

    Yields:
        The temporary folder.

    Raises:
        InputError: If a file cannot be written, for example because the disk is full; nothing is
            left behind then.
    """
    folder = Path(folder)
    part = _part(folder)
    try:
        if is_writer:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        wait_for_everyone()
        yield part
        wait_for_everyone()
        if is_writer:
            _write_manifest(part)
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
        wait_for_everyone()
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        if not _means_failed_write(error):
            raise
        older = newest_whole_checkpoint(folder.parent)
        kept = f"{older} is whole: " if older else ""
        raise InputError(
            f"cannot write the checkpoint {folder}: {str(error).splitlines()[0]}; {kept}"
            "make room on the disk and start again with --resume"
        ) from error


def _part(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _means_failed_write(error: Exception) -> bool:
    """Whether saving failed at the file system; torch and safetensors have their own exceptions."""
    return isinstance(error, OSError) or any(
        sign in f"{type(error).__name__}: {error}"
        for sign in ("PytorchStreamWriter", "inline_container", "SafetensorError", "os error")
    )


def _write_manifest(folder: Path) -> None:
    content = json.dumps(_fingerprint(folder), indent=1)
    (folder / MANIFEST).write_text(content, encoding="utf-8")


def _fingerprint(folder: Path) -> dict[str, list[int]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): [path.stat().st_size, _crc(path)] for path in paths}


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def damage(folder: str | Path) -> str | None:
    """Says what is wrong with a checkpoint.

    A checkpoint of `AUCSegTrainer` is compared with its manifest, byte for byte. One of another
    program has none: its state has to be readable, its archives and tensors of full length.

    Args:
        folder: The checkpoint's folder.

    Returns:
        None for a whole checkpoint, else a few words.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return _differing_file(folder)
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or unreadable"
    for path in sorted(folder.iterdir()):
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.name} is truncated"
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} is truncated"
    return None


def _differing_file(folder: Path) -> str | None:
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return f"{MANIFEST} is unreadable"
    for name, (size, crc) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _crc(path) != crc:
            return f"{name} is not what was written"
    return None


def _is_whole_safetensors(path: Path) -> bool:
    """Compares the file's length with the end of its last tensor, which the header tells."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)


def step_of(checkpoint: Path) -> int:
    """The N of a folder checkpoint-N."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """The folders checkpoint-N of a run, the newest (largest N) first."""
    found = [
        path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdecimal()
    ]
    return sorted(found, key=step_of, reverse=True)


def newest_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Finds where to resume; torn checkpoints are passed over with a warning.

    Args:
        output_dir: The run's output folder.

    Returns:
        The folder, or None where there is none.
    """
    for checkpoint in checkpoints_in(output_dir):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, problem)
    return None


def set_aside(output_dir: str | Path, after_step: int = -1) -> Path | None:
    """Moves checkpoints that are no part of a run out of its way; what was half-written goes.

    A run that left them there could later be resumed from one of them.

    Args:
        output_dir: The run's output folder.
        after_step: Only those of later steps: the run goes on from this one.

    Returns:
        The folder they are in now, or None if there were none.
    """
    for part in Path(output_dir).glob(_part(Path(f"{PREFIX_CHECKPOINT_DIR}-*")).name):
        shutil.rmtree(part)
    checkpoints = [path for path in checkpoints_in(output_dir) if step_of(path) > after_step]
    if not checkpoints:
        return None
    number = 1
    while (aside := Path(output_dir) / f"earlier-{number}").exists():
        number += 1
    aside.mkdir()
    for checkpoint in checkpoints:
        checkpoint.rename(aside / checkpoint.name)
    return aside


def check_same_model(checkpoint: str | Path, config: PreTrainedConfig) -> None:
    """Checks that a checkpoint is one of the model that is to be trained on.

    Args:
        checkpoint: The checkpoint's folder.
        config: The model's configuration.

    Raises:
        InputError: If the checkpoint's type, number of classes or sizes are others.
    """
    saved, current = AutoConfig.from_pretrained(checkpoint).to_dict(), config.to_dict()
    for values in (saved, current):
        values["num_labels"] = len(values["id2label"])
    for key, phrase in _WHAT_A_MODEL_HAS.items():
        before, now = saved.get(key), current.get(key)
        if before != now:
            raise InputError(
                f"checkpoint {checkpoint} has {phrase.format(before)} but the model has {now}: "
                "choose another output_dir"
            )
