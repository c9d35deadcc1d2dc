"""What the commands share: flags, and one line where input is bad."""

import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging


def start(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the program's name and what is left of the command line, and exits."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.ERROR)
    app.run(main, flags_parser=_parse)


def fail(message: str, code: int) -> NoReturn:
    """Prints one line and exits."""
    print(f"jaxdet: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with one becomes a line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # ml_collections, for a field that is not there
        name = (re.findall(r"\w+", str(error)) or ["?"])[0]
        flag = next((a for a in argv if name in a.split("=")[0].split(".")), name)
        fail(f"{flag}: no such field; jaxdet/config.py lists them", 2)
    except Exception as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        fail(f"{what[0]} (see --help)", 2)
