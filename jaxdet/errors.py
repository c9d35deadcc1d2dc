"""The one exception that stands for bad input rather than a bug."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, field or image and says what to do.
    Commands print it and exit with code 2; a library caller sees an ordinary exception.
    """
