"""What is printed: output that is lost ends no work, what the system refuses is a line, and names
from files neither steer a terminal nor forge a line, nor flood it.
"""

import errno
import logging
import subprocess
import sys

import pytest

from jaxdet import console
from jaxdet.errors import InputError, refusal, visible

COMMAND = """
import sys
from jaxdet import console

def main(argv):
    for _ in range(10_000):
        print("a line of some length, so that these fill a pipe")
    print("end", file=sys.stderr)

console.start(main)
"""


@pytest.mark.parametrize(
    ("to", "code", "errors"), [("> /dev/full", 0, "end\n"), ("| head -1 > /dev/null", 141, "")]
)
def test_output_that_is_lost(to, code, errors):
    line = f'"$0" -c "$1" {to}; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(
        ["bash", "-c", line, sys.executable, COMMAND],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stderr) == (code, errors)


CANNOT_ENCODE = UnicodeEncodeError("ascii", "\xe9", 0, 1, "ordinal not in range")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EACCES, "", "a"), "a: Permission denied; choose another, or"),
        (OSError(errno.EMFILE, "", "a"), "a: Too many open files; allow more open files (ulimit"),
        (OSError("not a regular file"), "not a regular file"),
        (ValueError("x os_error_code='28' y"), "No space left on device; make room there"),
        (ImportError("libx.so: Too many open files"), "Too many open files; allow"),
        (MemoryError(), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory (RESOURCE"),
        (RecursionError("maximum depth"), "input: nested too deeply"),
        (CANNOT_ENCODE, "'ascii' codec can't encode"),
    ],
)
def test_what_the_system_refuses_is_a_line(error, line):
    said = refusal(error)
    assert said.startswith(line)
    assert "\n" not in said


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), InputError("x"), ImportError()])
def test_a_bug_keeps_its_traceback(error):
    assert refusal(error) is None


FORGED = "a.png\nFAULT: b\x85c\x9b2J\x1b[2J\u202egpj.exe\u2028\u200e\ud800\t"


def test_what_steers_or_ends_a_line_is_shown_as_python_writes_it():
    assert visible("ä 漢 🙂 \\ 'x'") == "ä 漢 🙂 \\ 'x'"
    for character in FORGED:
        if not character.isprintable():
            assert visible(f"a{character}b") == f"a{ascii(character)[1:-1]}b"


@pytest.mark.parametrize("text", ["x" * 10**7, "\x85" * 10**7, FORGED * 10**5])
def test_a_long_name_is_a_short_line_with_its_ends(text):
    line = visible(f"first {text} last")
    assert len(line) <= 1200
    assert line.startswith("first ")
    assert line.endswith(" last")
    assert line.isprintable()
    assert str(InputError(text)) == visible(visible(text)) == visible(text)


def test_every_way_to_print_is_one_visible_line(capsys):
    def progress(text):
        with console.progress(text, text):
            pass

    def warn(text):
        record = logging.LogRecord("jaxdet", logging.WARNING, "", 0, "%s", (text,), None)
        console.complain(console.LineFormatter().format(record))

    for way in (console.say, console.complain, progress, warn):
        way(FORGED)
        out, err = capsys.readouterr()
        text = out + err
        assert text.endswith("\n")
        assert text[:-1].isprintable()
        assert "a.png\\nFAULT" in text
