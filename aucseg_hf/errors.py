"""The exception that means "the input is wrong", which scripts report in one sentence."""


class InputError(ValueError):
    """Raised when data, options or a checkpoint given by the user cannot be used.

    The message is one sentence that says what was expected, what came, and what to do. The scripts
    print it without a traceback and exit with status 2; any other exception is a fault of ours.
    """
