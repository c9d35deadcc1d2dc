"""What the commands share: flags, and one line where input is bad."""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from jaxdet.errors import InputError


def start(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the program's name and what is left of the command line, and exits."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # What goes wrong in the threads of orbax and grain is raised, and told in a line, in ours.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jaxdet: %(message)s"))
    ours = logging.getLogger("jaxdet")
    ours.addHandler(handler)
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    app.run(main, flags_parser=_parse)


def complain(message: str) -> None:
    """Prints one line, whatever the message is."""
    print(f"jaxdet: {InputError(message)}", file=sys.stderr, flush=True)


def fail(message: str, code: int) -> NoReturn:
    """Prints one line and exits."""
    complain(message)
    sys.exit(code)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with one becomes a line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{' '.join(str(error).split())} (see --help)", 2)
    except Exception as error:  # whatever ml_collections or the config file raises
        what = " ".join(str(error).split())
        names = re.findall(r"\w+", what)
        fields = [a for a in argv if set(names) & set(a.split("=")[0].split(".")[1:])]
        if fields and isinstance(error, AttributeError | KeyError):
            fail(f"{fields[0]}: no such field; jaxdet/config.py lists them", 2)
        file = next((a for a in argv if a.lstrip("-").startswith("config=")), "--config")
        fail(f"{file}: cannot be used as a config: {type(error).__name__}: {what}", 2)
