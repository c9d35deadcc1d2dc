"""The one exception for bad input, text that is safe to show, and what a system refuses."""

import errno
import os
import re
import sys

_MAX_LINE = 1200  # characters


def visible(text: str) -> str:
    """Returns text, names from files in it, as one line of bounded length for a terminal.

    What would end the line, steer the terminal or turn the direction of writing is escaped, as
    `repr` does; what is too long loses its middle.
    """
    return _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in _cut(text)))


def _cut(text: str) -> str:
    half = _MAX_LINE // 2 - 3
    return text if len(text) <= _MAX_LINE else f"{text[:half]} ... {text[-half:]}"


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, field or image and says what to do.
    Commands print it and exit with code 2; a library caller sees an ordinary exception.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class OtherHeads(InputError):
    """Of a checkpoint the heads alone do not fit; training can begin them anew."""


def complain(message: str) -> None:
    """Prints one line to stderr, whatever the message is."""
    print(visible(f"jaxdet: {message}"), file=sys.stderr, flush=True)  # noqa: T201


_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there or choose another folder"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "choose another, or see to your rights there"
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n) or use fewer processes"
    ),
}


def refusal(error: BaseException, done: str = "", path: object = "") -> str | None:
    """Returns a line on what the system refused, and what to do; None if that is not the cause.

    The line names `path`, or else the file that the error names, and says what cannot be `done`
    to it ("read", "written").
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"out of memory ({text[:200]}); make batches or images smaller"
    if isinstance(error, RecursionError):
        return f"{path or 'input'}: nested too deeply"
    if isinstance(error, UnicodeError):
        return f"{path or text}: not text in this locale or file; set LC_ALL=C.UTF-8, or rename it"
    number = error.errno if isinstance(error, OSError) else None
    # As tensorstore says it, of whatever type, or the loader of shared libraries.
    if found := re.search(r"os_error_code='(\d+)'", text):
        number = int(found[1])
    elif isinstance(error, ImportError) and os.strerror(errno.EMFILE) in text:
        number = errno.EMFILE
    if number is None and not isinstance(error, OSError):
        return None
    reason = os.strerror(number) if number else text
    name = path or getattr(error, "filename", None) or ""
    parts = [str(name), f"cannot be {done}" if done else "", reason]
    line = ": ".join(part for part in parts if part)
    return f"{line}; {_ADVICE[number]}" if number in _ADVICE else line
