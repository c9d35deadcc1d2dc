"""Batches made in the background by grain: threads, or processes that may be killed.

What comes out does not depend on how many there are, on where a run went on, or on which died.
"""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from absl import flags

from jaxdet.errors import InputError
from jaxdet.types import Batch

_LOG = logging.getLogger(__name__)

MAX_RESTARTS = 5  # of killed processes, with no batch between


class Element(NamedTuple):
    """A batch, and a line for each image that was left out of it because it cannot be read."""

    batch: Batch
    skipped: tuple[str, ...]


class Loader(AbstractContextManager["Loader"], Iterator[Element]):
    """Iterates over batches that are made in the background; `step` is that of the next."""

    def __init__(
        self, source: Any, num_workers: int, start_step: int = 0, warn: bool = True
    ) -> None:
        """Prepares to start the workers, which happens with the first batch.

        `source` has `Element`s by step, from 0 to its length, and is picklable.  No workers make
        batches in two threads of this process.  Without `warn` the caller reports `skipped`.
        """
        self.step = start_step
        self._source, self._num_workers, self._warn = source, num_workers, warn
        self._restarts = 0
        self._elements: Any = None
        self._start()

    def __next__(self) -> Element:
        element = self._next_element()
        if isinstance(element, str):
            raise InputError(element)
        if self._warn:
            for message in element.skipped:
                _LOG.warning("step %d: image skipped: %s", self.step, message)
        self.step += 1
        self._restarts = 0
        # Out of the workers' shared memory, whose blocks outlive a program that is interrupted.
        leaves = (None if leaf is None else np.array(leaf) for leaf in element.batch)
        return Element(Batch(*leaves), element.skipped)

    def close(self) -> None:
        """Stops the workers and frees the memory shared with them."""
        if self._elements is not None:
            self._elements.close()
            self._elements = None
            gc.collect()  # of cycles that hold the last elements, or they are reported as leaked

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _next_element(self) -> Element | str:
        # Processes that begin here inherit this: Ctrl-C is for the one that ends them.  The
        # tracker, which the first would start, takes it away again.
        if self._num_workers:
            resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return next(self._elements)
        except RuntimeError as error:
            # What grain raises for a process that was killed, for want of memory perhaps.
            if "terminated unexpectedly" not in str(error):
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._restarts == MAX_RESTARTS:
            raise InputError(
                "loader processes keep being killed, for want of memory perhaps; set fewer "
                "config.data.num_workers (0 for none) or give the run more memory"
            )
        self._restarts += 1
        _LOG.warning("step %d: a loader process was killed; starting all anew", self.step)
        self._elements.close()
        self._start()
        return self._next_element()

    def _start(self) -> None:
        self._elements = iter(_in_background(_From(self._source, self.step), self._num_workers))


@dataclass(frozen=True)
class _From:
    """A source's steps from the first one that is wanted.

    An `InputError` becomes its message, because grain adds to exceptions of another process.
    """

    source: Any
    first: int

    def __len__(self) -> int:
        return max(0, len(self.source) - self.first)

    def __getitem__(self, position: int) -> Element | str:
        try:
            return self.source[self.first + position]
        except InputError as error:
            return str(error)


def _in_background(source: _From, num_workers: int) -> grain.IterDataset:
    """Returns the source's elements in order, a few made ahead of time."""
    # An element is a whole batch of images: tens of megabytes, so buffers are short.
    threads = 1 if num_workers else 2
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    elements = grain.MapDataset.source(source).to_iter_dataset(read)
    if not num_workers:
        return elements
    if not flags.FLAGS.is_parsed():  # grain reads flags, which only absl's own programs parse
        flags.FLAGS.mark_as_parsed()
    # Only images are worth a block of shared memory each.
    by_size = grain.experimental.DatasetOptions(min_shm_size=1 << 16)
    elements = grain.experimental.WithOptionsIterDataset(elements, by_size)
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1)
    return elements.mp_prefetch(options, worker_init_fn=_start_worker)


def _start_worker(*_: int) -> None:
    """Runs first in every loader process."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone: a killed run must not leave its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
