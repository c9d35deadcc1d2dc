"""What the commands share: flags, all that they print, and how far something has come.

File names, and whatever else is printed, become `errors.visible` here, so that no caller needs to
remember it; a lint rule keeps `print` out of other modules.
"""

import contextlib
import io
import logging
import os
import re
import runpy
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

import jaxdet
from jaxdet import config
from jaxdet.errors import InputError, complain, refusal, visible
from jaxdet.files import read_bytes

GRACE = 5.0  # seconds after Ctrl-C

# Takes how much is done, and how much there is in all once that is known.
Advance = Callable[..., None]


def jaxdet_command() -> None:
    """Runs `python -m jaxdet.main`: the console script `jaxdet`."""
    runpy.run_module("jaxdet.main", run_name="__main__", alter_sys=True)


def start(main: Callable[[list[str]], None], define: Callable[[], None] = lambda: None) -> None:
    """Calls `main` with the arguments that are no flags, once `define` has defined the flags.

    Bad input, and whatever the system refuses, is one line and exit code 2: here and nowhere else.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # not a caller's own
            raw = io.BufferedWriter(_Output(descriptor, "w", closefd=False))
            text = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, text)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Errors in the threads of orbax and grain are raised and reported in the main thread.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("jaxdet: %(message)s"))
    ours = logging.getLogger("jaxdet")
    ours.addHandler(handler)
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    mute_abandoned()
    # Not at import, as a program that imports jaxdet may have flags of its own.
    version = flags.DEFINE_bool("version", False, "Print jaxdet's version.")
    quiet = flags.DEFINE_bool("quiet", False, "Print errors alone: no other lines, no bars.")

    def run(argv: list[str]) -> None:
        if version.value:
            say(f"jaxdet {jaxdet.__version__}")
            return
        if quiet.value:
            ours.setLevel(logging.ERROR)
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - to the end
        main(argv)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a script's background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.argv = [*_expanded(sys.argv)]
        define()
        app.run(run, flags_parser=_parse)
    except KeyboardInterrupt:
        _end()
    except Exception as error:
        if isinstance(error, InputError):
            fail(str(error), 2)
        if (line := refusal(error)) is None:
            raise
        complain(line)
        sys.stdout.flush()
        os._exit(2)  # threads of libraries may wait for ever for what could not be started


class _Output(io.FileIO):
    """A standard stream whose loss ends no work: on a full disk what is printed is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:  # `| head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except OSError:
            return len(data)


def _expanded(argv: Iterable[str]) -> Iterator[str]:
    """Yields arguments, with those that a flag file has, one in a line, in its place."""
    rest = iter(argv)
    for argument in rest:
        found = re.fullmatch("--?flagfile(?:=(.*))?", argument)
        if not found:
            yield argument
            continue
        text = read_bytes(found[1] or next(rest, "")).decode()
        lines = (line.strip() for line in text.splitlines())
        yield from _expanded(line for line in lines if line and not line.startswith(("#", "//")))


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


class LineFormatter(logging.Formatter):
    """Makes a warning one line that is safe to show."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        return visible(super().format(record))


def say(*lines: str) -> None:
    """Prints each text as one line, at once."""
    for line in lines:
        print(visible(line), flush=True)  # noqa: T201


def fail(message: str, code: int) -> NoReturn:
    """Prints one line to stderr and exits."""
    complain(message)
    sys.exit(code)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags, or shows them all; whatever is wrong with one becomes a line."""
    if {"--help", "-help", "-h", "-?"} & {*argv[1:]}:
        app.usage(shorthelp=True, writeto_stdout=True)
        # Of this module are those that every command has.
        print(flags.FLAGS.module_help(__name__))  # noqa: T201
        print(config.help_text() if "config" in flags.FLAGS else "")  # noqa: T201
        sys.exit(0)
    # The last one counts, also of a field's lists, which ml_collections would join.
    fields = [a.split("=")[0] if re.match(r"--?config\..*=", a) else i for i, a in enumerate(argv)]
    argv = [*dict(zip(fields, argv, strict=True)).values()]
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        if isinstance(error.__context__, InputError):  # the config file's
            raise error.__context__ from None
        raise InputError(f"{' '.join(str(error).split())} (see --help)") from None
    except OSError:
        raise
    except Exception as error:  # whatever ml_collections raises for an override
        what = " ".join(str(error).split())
        names = set(re.findall(r"\w+", what))
        given = [a for a in argv if a.lstrip("-").startswith("config")]
        named = [a for a in given if names & set(a.split("=")[0].split(".")[1:])]
        flag = next(iter([*named, *given]), "--config")
        line = f"{flag}: no such field or value; see jaxdet/config/fields.py ({what})"
        raise InputError(line) from None


@contextlib.contextmanager
def progress(
    title: str, line: str, *columns: ProgressColumn, total: int | None = None
) -> Iterator[Advance]:
    """Shows `title`, a bar and `columns` on a terminal, `line` elsewhere; both on stderr.

    `total` is how much there is to do, where that is known at once.
    """
    console = Console(stderr=True)
    quiet = not logging.getLogger("jaxdet").isEnabledFor(logging.WARNING)
    if not console.is_terminal and not quiet:
        print(visible(line), file=sys.stderr, flush=True)  # noqa: T201
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
    with Progress(*shown, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(visible(title), total=total)
        # A total of None leaves it as it is.
        yield lambda done, total=None: bar.update(task, completed=done, total=total)
