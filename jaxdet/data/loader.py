"""Batches made in the background by grain: threads, or processes that may be killed.

What comes out does not depend on how many there are, on where a run went on, or on which died.
"""

import gc
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from absl import flags

from jaxdet.data.augment import AugmentError
from jaxdet.errors import InputError
from jaxdet.types import Batch

_LOG = logging.getLogger(__name__)

MAX_RESTARTS = 5  # of killed processes, with no batch between
MIN_SHARED = 1 << 30  # bytes


class Element(NamedTuple):
    """A batch, and a line for each image that was left out of it because it cannot be read."""

    batch: Batch
    skipped: tuple[str, ...]


Batches = AbstractContextManager[Iterator[Element]]


def batches_from(
    source: Any, num_workers: int, step: int = 0, warn: bool = True, ahead: int = 1
) -> Batches:
    """Returns the batches from `step` on; what makes them in the background ends with the context.

    `source` has `Element`s by step, from 0 to its length, and is picklable.  No workers make
    batches in two threads of this process.  Without `warn` the caller reports `skipped`.  Each
    thread or process may be `ahead` batches ahead.
    """
    return closing(_elements(source, num_workers, step, warn, ahead))


def _elements(
    source: Any, num_workers: int, step: int, warn: bool, ahead: int
) -> Generator[Element, None, None]:
    restarts = 0  # since the last batch
    while True:
        made: Any = None
        try:
            made = iter(_in_background(_From(source, step), num_workers, ahead))
            for element in _undisturbed(made) if num_workers else made:
                if isinstance(element, str):
                    raise InputError(element)
                for message in element.skipped if warn else ():
                    _LOG.warning("step %d: image skipped: %s", step, message)
                restarts, step = 0, step + 1
                # Not in the workers' shared memory, whose blocks outlive an interrupted program.
                leaves = (None if leaf is None else np.array(leaf) for leaf in element.batch)
                element = element._replace(batch=Batch(*leaves))
                yield element
            return
        except RuntimeError as error:
            # What grain raises for a process that was killed, for want of memory perhaps.
            if "terminated unexpectedly" not in str(error):
                raise
            if restarts == MAX_RESTARTS:
                raise InputError(
                    "loader processes keep being killed, for want of memory (or /dev/shm) perhaps; "
                    "set fewer config.data.num_workers (0 for none) or give the run more of it"
                ) from None
        except OSError as error:
            made = None  # grain cannot close what it could not start
            if num_workers and not error.filename:
                error.filename = "loader processes (config.data.num_workers=0 does without them)"
            raise
        finally:
            if made is not None:
                made.close()
            del made
            if num_workers:  # cycles hold the last elements, which would be reported as leaked
                gc.collect()
        restarts += 1
        _LOG.warning("step %d: a loader process was killed; starting all anew", step)


def _undisturbed(made: Iterator[Any]) -> Iterator[Any]:
    """Yields what processes make that do not hear Ctrl-C: it is for the one that ends them."""
    # Started with the first of them, this would let the signal through again.
    resource_tracker.ensure_running()
    while True:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            element = next(made, None)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if element is None:
            return
        yield element


@dataclass(frozen=True)
class _From:
    """A source's steps from the first one that is wanted.

    An error of the user's becomes its message, because grain adds to exceptions of another process.
    """

    source: Any
    first: int

    def __len__(self) -> int:
        return max(0, len(self.source) - self.first)

    def __getitem__(self, position: int) -> Any:
        try:
            return self.source[self.first + position]
        except (InputError, AugmentError) as error:
            return str(error)


def _in_background(source: _From, num_workers: int, ahead: int) -> Iterable[Any]:
    """Returns the source's elements in order, a few made ahead of time."""
    if len(source) == 1:
        return (source[0] for _ in range(1))
    import grain  # late, as one image is sooner done than this is imported

    # An element may be a whole batch of images: tens of megabytes, so buffers are short.
    threads = 1 if num_workers else 2
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * ahead)
    elements = grain.MapDataset.source(source).to_iter_dataset(read)
    if not num_workers:
        return elements
    if not flags.FLAGS.is_parsed():  # grain reads flags, which only absl's own programs parse
        flags.FLAGS.mark_as_parsed()
    # Only images are worth a block of shared memory each; containers may have little of it, and
    # then they go by pipes, at three times the work.
    shared = Path("/dev/shm")
    little = shared.is_dir() and shutil.disk_usage(shared).free < MIN_SHARED
    by_size = grain.experimental.DatasetOptions(min_shm_size=1 << 62 if little else 1 << 16)
    elements = grain.experimental.WithOptionsIterDataset(elements, by_size)
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=ahead)
    return elements.mp_prefetch(options, worker_init_fn=_start_worker)


def _start_worker(*_: int) -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    end_with_parent()


def end_with_parent() -> None:
    """Ends this process once its parent is gone: a killed run must not leave its workers."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
