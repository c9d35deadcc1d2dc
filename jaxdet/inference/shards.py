"""Predictions of many images in a few files, each of them whole or absent: JSON lines or Parquet.

A part of the images has a file of its own, so a command that was ended goes on with those that have
none.  `predict.json` says what the files in a folder are of.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jaxdet.errors import InputError
from jaxdet.files import make_folder, whole, write_json
from jaxdet.training.workdir import read_record

Record = dict[str, Any]
Write = Callable[[Record], object]

ROWS = 1000  # of a Parquet file that go together


class Shards(contextlib.ExitStack):
    """The files of all parts; those that are not complete when the context ends are not written."""

    def __init__(
        self, folder: Path, kind: str, parts: Sequence[Sequence[str]], about: Mapping[str, Any]
    ) -> None:
        """Takes all parts of the images, and what else results depend on, ready for JSON.

        `kind` is jsonl or parquet.  Raises `InputError` if the folder has results of something
        else, or cannot be written.
        """
        super().__init__()
        self._folder, self._kind, self._count = folder, kind, len(parts)
        self._open = dict[int, tuple[contextlib.ExitStack, Write, int]]()
        if kind == "parquet":
            _pyarrow()
        names = 0
        for path in (path for part in parts for path in part):
            names = zlib.crc32(os.fsencode(path) + b"\0", names)
        images = f"{sum(map(len, parts))} images or archives ({names:08x})"
        self._claim({**about, "shards": kind, "images": images})

    def path_of(self, part: int) -> Path:
        """Returns a part's file."""
        return self._folder / f"{part:05}-of-{self._count:05}.{self._kind}"

    def is_wanted(self, part: int) -> bool:
        """Returns whether a part's file is not there yet."""
        return not self.path_of(part).exists()

    def begin(self, part: int, images: int) -> None:
        """Begins the file of a part; it is there when so many images have been written."""
        stack = self.enter_context(contextlib.ExitStack())
        opened = {"jsonl": _json_lines, "parquet": _parquet}[self._kind](self.path_of(part))
        self._open[part] = stack, stack.enter_context(opened), images
        self._close_if_complete(part)

    def write(self, part: int, record: Record, *_: Any) -> str | None:
        """Writes an image's record; returns a line if there is no result."""
        stack, write, left = self._open[part]
        write(record)
        self._open[part] = stack, write, left - 1
        self._close_if_complete(part)
        return record.get("error")

    def _close_if_complete(self, part: int) -> None:
        stack, _, left = self._open[part]
        if not left:
            del self._open[part]
            stack.close()

    def _claim(self, about: Record) -> None:
        make_folder(self._folder)
        path = self._folder / "predict.json"
        found = read_record(path)
        about = msgspec.json.decode(msgspec.json.encode(about))
        other = [f"{k} {found.get(k)}, not {v}" for k, v in about.items() if found.get(k) != v]
        if found and other:
            raise InputError(
                f"{path}: the results there are of {'; '.join(other)[:300]}; choose another --out"
            )
        if not found:  # several hosts write the same
            write_json(path, about)


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with whole(path) as file:
        yield lambda record: file.write(msgspec.json.encode(record) + b"\n")


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    pa, pq = _pyarrow()
    number, numbers = pa.float32(), pa.list_(pa.int32())
    schema = pa.schema(
        {
            **{"image": pa.string(), "width": pa.int32(), "height": pa.int32()},
            **{"boxes": pa.list_(pa.list_(number)), "scores": pa.list_(number)},
            **{"labels": numbers, "category_ids": numbers, "class_names": pa.list_(pa.string())},
            "masks": pa.list_(pa.struct({"size": numbers, "counts": pa.string()})),
            "error": pa.string(),
        }
    )
    held: list[Any] = []  # a record as Python's objects takes ten times the memory

    def flush() -> None:
        writer.write_table(pa.Table.from_batches(held, schema).combine_chunks())
        held.clear()

    def write(record: Record) -> None:
        held.append(pa.RecordBatch.from_pylist([record], schema))
        if len(held) == ROWS:
            flush()

    with whole(path) as file, pq.ParquetWriter(file, schema) as writer:
        yield write
        flush()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            "--shards=parquet: needs pyarrow; pip install 'jaxdet[parquet]', or use --shards=jsonl"
        ) from None
    return pyarrow, parquet
