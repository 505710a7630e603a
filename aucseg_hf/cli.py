"""What the scripts share: recipes, one-sentence errors, whole files."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

from aucseg_hf.errors import InputError, did_you_mean


def run(main: Callable[[list[str]], None]) -> int:
    """Runs a script's main function.

    Returns:
        The exit status: 0, 2 after printing the sentence of an `InputError`, 130 after Ctrl-C.
    """
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    return 0


def _sentence(error: InputError) -> str:
    """The message; a data loader's worker wraps it in the text of its traceback."""
    text = str(error)
    if not text.startswith("Caught "):
        return text
    return text.rpartition(f"{type(error).__name__}: ")[2].strip()


def parse_with_recipe(
    types: Sequence[type],
    arguments: Sequence[str],
    defaults: Mapping[str, Any],
    default_recipe: Callable[[Sequence[str]], Path | None],
) -> tuple[Any, ...]:
    """Parses `[RECIPE.yaml] [--name value ...]` into dataclasses; the command line wins.

    Args:
        types: Argument dataclasses.
        arguments: The command line without the program's name.
        defaults: The script's defaults, weaker than the recipe.
        default_recipe: Given the arguments, names the recipe to use when none stands first.

    Returns:
        One instance of each type.

    Raises:
        InputError: If the recipe cannot be read, a key or an option is unknown, or a value is
            refused.
    """
    arguments = list(arguments)
    if arguments and not arguments[0].startswith("-"):
        recipe: Path | None = Path(arguments.pop(0))
    else:
        recipe = default_recipe(arguments)
    parser = HfArgumentParser(types, usage="%(prog)s [RECIPE.yaml] [--name value ...]")
    for kind in types:
        _show_first(parser, getattr(kind, "help_groups", {}))
    names = [field.name for kind in types for field in fields(kind) if field.init]
    parser.set_defaults(**defaults)
    if recipe is not None:
        parser.set_defaults(**read_recipe(recipe, names))
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    if unknown:
        name = unknown[0].partition("=")[0]
        raise InputError(f"unknown option {name}{did_you_mean(name.lstrip('-'), names)}")
    return tuple(parsed)


def _show_first(parser: HfArgumentParser, groups: Mapping[str, Sequence[str]]) -> None:
    """Shows some options in groups of their own, before the many of TrainingArguments."""
    options = parser._optionals
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        chosen = [action for action in options._group_actions if action.dest in names]
        for action in chosen:
            options._group_actions.remove(action)
            group._group_actions.append(action)
    parser._action_groups.sort(key=lambda group: group is options)


def read_recipe(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Reads a YAML recipe of argument names and values.

    Raises:
        InputError: If the file is no YAML mapping or has a key that is not in `names`.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"expected `name: value` lines in the recipe {path}")
    for key in recipe:
        if key not in names:
            hint = did_you_mean(str(key), names)
            raise InputError(f"unknown key {key!r} in the recipe {path}{hint}")
    return recipe


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, renamed to it when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Checks that a folder, which need not exist yet, can be written to.

    Raises:
        InputError: If it cannot.
    """
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    try:
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to the folder {folder}: {existing}: {error.strerror}"
        ) from error


def check_device(name: str) -> torch.device:
    """Gives a device by name, such as "cpu" or "cuda:1".

    Raises:
        InputError: If there is no such device on this machine.
    """
    try:
        return torch.zeros(1, device=name).device
    # A torch that was built without CUDA asserts.
    except (RuntimeError, AssertionError) as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"expected a device among {available}, got {name!r}") from error
