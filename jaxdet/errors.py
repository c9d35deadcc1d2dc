"""The one exception that stands for bad input rather than a bug."""

# Characters that would end a line or steer a terminal, as escapes.
_ESCAPES = {i: f"\\x{i:02x}" for i in (*range(32), *range(127, 160))}
_ESCAPES |= {
    i: f"\\u{i:04x}" for i in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, field or image and says what to do.
    Commands print it and exit with code 2; a library caller sees an ordinary exception.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.translate(_ESCAPES))
