"""How far something long has come: a bar, and the line of a training run."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

# Is told how much is done, and how much there is in all once that is known.
Advance = Callable[..., None]


@contextlib.contextmanager
def progress(
    title: str, line: str, *columns: ProgressColumn, total: int | None = None
) -> Iterator[Advance]:
    """A bar on a terminal, one line elsewhere; both on stderr.

    Args:
        title: stands before the bar.
        line: is printed instead of it.
        columns: stand behind the bar.
        total: how much there is to do, where that is known at once.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        print(line, file=sys.stderr, flush=True)
    shown = (TextColumn("{task.description}"), BarColumn(), *columns)
    with Progress(*shown, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def advance(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)  # None leaves the total as it is

        yield advance


@dataclass(frozen=True)
class ProgressLine:
    """Formats the line that a person watches; equal widths from step to step."""

    total_steps: int
    num_epochs: int

    def format(
        self,
        step: int,
        epoch: int,
        losses: Mapping[str, float],
        learning_rate: float,
        seconds_per_step: float,
        images_per_second: float,
        wait_share: float,
    ) -> str:
        """One line about the last few steps.

        Args:
            step: updates made.
            epoch: the current one, from 1.
            losses: terms by name, in the order to show.
            learning_rate: of the last update.
            seconds_per_step: wall time; the remaining time is judged by it.
            images_per_second: over all devices.
            wait_share: share of the time spent waiting for the loader, 0 to 1.

        Returns:
            Text without a line break.
        """
        remaining = (self.total_steps - step) * seconds_per_step
        return "  ".join(
            [
                f"step {step:{len(str(self.total_steps))}d}/{self.total_steps}",
                f"epoch {epoch:{len(str(self.num_epochs))}d}/{self.num_epochs}",
                *(f"{name} {_loss(value)}" for name, value in losses.items()),
                f"lr {learning_rate:.2e}",
                f"{seconds_per_step:7.3f} s/it",
                f"{images_per_second:7.1f} img/s",
                f"wait {100 * wait_share:3.0f}%",
                f"ETA {_duration(remaining):>9}",
            ]
        )


def _loss(value: float) -> str:
    """Seven characters; four decimals while they fit."""
    return f"{value:7.1e}" if 100 <= abs(value) < math.inf else f"{value:7.4f}"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    if not math.isfinite(seconds):
        return "-:--:--"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
