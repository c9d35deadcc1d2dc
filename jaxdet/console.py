"""What the commands share: flags, one line where input is bad, and how far something has come."""

import contextlib
import logging
import os
import re
import runpy
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

import jaxdet
from jaxdet.errors import InputError

GRACE = 5.0  # seconds after Ctrl-C

# Takes how much is done, and how much there is in all once that is known.
Advance = Callable[..., None]


def jaxdet_command() -> None:
    """Runs `python -m jaxdet.main`: the console script `jaxdet`."""
    runpy.run_module("jaxdet.main", run_name="__main__", alter_sys=True)


def start(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the arguments that are no flags; bad input is one line and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Errors in the threads of orbax and grain are raised and reported in the main thread.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jaxdet: %(message)s"))
    ours = logging.getLogger("jaxdet")
    ours.addHandler(handler)
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    mute_abandoned()
    # Not at import, as a program that imports jaxdet may have flags of its own.
    version = flags.DEFINE_bool("version", False, "Print jaxdet's version.")

    def run(argv: list[str]) -> None:
        if version.value:
            print(f"jaxdet {jaxdet.__version__}")
            return
        try:
            main(argv)
        except InputError as error:
            fail(str(error), 2)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a script's background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app.run(run, flags_parser=_parse)
    except KeyboardInterrupt:
        _end()


def _interrupt(*_: object) -> None:
    """Ends the command at Ctrl-C, at the second at once; see `distributed.stop_signal`."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # In a callback of the garbage collector, or of a library, the exception may be lost.
    timer = threading.Timer(GRACE, _end)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _end() -> None:
    complain("interrupted; nothing half-written is left")
    os._exit(130)


def mute_abandoned() -> None:
    """Keeps quiet what orbax leaves behind when one of several reads or writes fails.

    The first failure is raised; of the others each would print a traceback or a warning, some
    later.  A command may do this to its process, the library may not.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda event: None


def complain(message: str) -> None:
    """Prints one line to stderr, whatever the message is."""
    print(f"jaxdet: {InputError(message)}", file=sys.stderr, flush=True)


def fail(message: str, code: int) -> NoReturn:
    """Prints one line to stderr and exits."""
    complain(message)
    sys.exit(code)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with one becomes a line."""
    # The last one counts, also of a field's lists, which ml_collections would join.
    fields = [a.split("=")[0] if re.match(r"--?config\..*=", a) else i for i, a in enumerate(argv)]
    argv = [*dict(zip(fields, argv, strict=True)).values()]
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        if isinstance(error.__context__, InputError):  # the config file's
            fail(str(error.__context__), 2)
        fail(f"{' '.join(str(error).split())} (see --help)", 2)
    except Exception as error:  # whatever ml_collections raises for an override
        what = " ".join(str(error).split())
        names = set(re.findall(r"\w+", what))
        given = [a for a in argv if a.lstrip("-").startswith("config")]
        named = [a for a in given if names & set(a.split("=")[0].split(".")[1:])]
        flag = next(iter([*named, *given]), "--config")
        fail(f"{flag}: no such field or value; see jaxdet/config/fields.py ({what})", 2)


@contextlib.contextmanager
def progress(
    title: str, line: str, *columns: ProgressColumn, total: int | None = None
) -> Iterator[Advance]:
    """Shows `title`, a bar and `columns` on a terminal, `line` elsewhere; both on stderr.

    `total` is how much there is to do, where that is known at once.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        print(line, file=sys.stderr, flush=True)
    shown = (TextColumn("{task.description}"), BarColumn(), *columns)
    with Progress(*shown, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        # A total of None leaves it as it is.
        yield lambda done, total=None: bar.update(task, completed=done, total=total)
