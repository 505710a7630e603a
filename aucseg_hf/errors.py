"""The exception that means "the input is wrong", which scripts report in one sentence."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Raised when data, options or a checkpoint given by the user cannot be used.

    The message is one sentence that says what was expected, what came, and what to do. The scripts
    print it without a traceback and exit with status 2; any other exception is a fault of ours.
    """


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of `choices`; raises InputError otherwise."""
    if value not in choices:
        raise InputError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")
    return value


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or nothing."""
    nearest = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {nearest[0]!r}?" if nearest else ""
