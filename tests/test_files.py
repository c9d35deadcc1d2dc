"""Files are whole or absent, and whatever stands in their way is one line."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdet.errors import InputError
from jaxdet.files import make_folder, open_regular, whole, whole_folder, write_whole


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_written_and_replaced(tmp_path):
    for text in (b"long text", b"new"):
        write_whole(tmp_path / "a", text)
        assert content(tmp_path) == {"a": text}


def test_nothing_is_seen_before_the_end(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with whole(tmp_path / "a") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_bytes() == b"old"
    assert content(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_comes_out_and_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")

    def write():
        with whole(tmp_path / "a") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert content(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk(tmp_path, monkeypatch, step):
    (tmp_path / "a").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], full)
    with pytest.raises(InputError) as caught:
        write_whole(tmp_path / "a", b"new")
    assert str(caught.value) == (
        f"{tmp_path}/a: cannot be written: No space left on device; "
        "make room there or choose another folder"
    )
    assert content(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none/a", "No such file"), ("file/a", "Not a directory"), ("folder", "Is a directory")],
)
def test_places_where_no_file_can_be(tmp_path, name, reason):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be written: {reason}"):
        write_whole(tmp_path / name, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, kind):
    path, other = tmp_path / "a", tmp_path / "other"
    if kind == "link":
        other.write_bytes(b"old")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    before = path.lstat().st_ino
    with pytest.raises(InputError, match="a: cannot be written: not a regular file; choose"):
        write_whole(path, b"new")
    assert path.lstat().st_ino == before
    assert not other.exists() or other.read_bytes() == b"old"


def test_reading(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"text")
    with open_regular(path, limit=4) as file:
        assert file.read() == b"text"
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        tmp_path / "pipe": "not a regular file of at most 3 bytes",
        Path("/dev/null"): "not a regular file of at most 3 bytes",
        tmp_path: "not a regular file of at most 3 bytes",
        tmp_path / "none": "No such file or directory",
        Path("a\0b"): "no file can have this name",
        path: "not a regular file of at most 3 bytes",
    }
    for bad, reason in reasons.items():
        with pytest.raises(InputError) as caught, open_regular(bad, limit=3):
            pass
        assert str(caught.value) == str(InputError(f"{bad}: cannot be read: {reason}"))


def test_folders(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for name in ("file", "file/a"):
        with pytest.raises(InputError, match=f"{name}: cannot be made: "):
            make_folder(tmp_path / name)


@contextlib.contextmanager
def other_process(path: Path):
    """While a process of its own is within `whole` or `whole_folder`, which it never leaves."""
    program = "import sys; from pathlib import Path; from jaxdet.files import *\n"
    program += "with {}(Path(sys.argv[1])): print(); input()"
    with contextlib.ExitStack() as processes:
        for name in ("whole", "whole_folder"):
            command = [sys.executable, "-c", program.format(name), path / name]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.enter_context(process)
            processes.callback(process.kill)
            process.stdout.readline()
        yield


def test_what_killed_processes_left_goes_and_that_of_living_ones_stays(tmp_path):
    with other_process(tmp_path):
        assert len(list(tmp_path.iterdir())) == 2
        make_folder(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 2
    make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_is_whole_or_absent(tmp_path, error):
    def write(fault: BaseException | None):
        with whole_folder(tmp_path / "new" / "a") as folder:
            (folder / "b").touch()
            if fault:
                raise fault

    with pytest.raises((InputError, KeyboardInterrupt)):
        write(error)
    assert list(tmp_path.iterdir()) == []
    write(None)
    assert list(tmp_path.rglob("*")) == [
        tmp_path / "new",
        *(tmp_path / "new" / x for x in ("a", "a/b")),
    ]
