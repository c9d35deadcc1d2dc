"""What a chart is drawn from: axes with round ticks, and lines of few enough points."""

import math
from dataclasses import dataclass

import numpy as np

MAX_POINTS = 500  # of a drawn line

TINY = 1e-100  # is drawn as 0

Number = int | float


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, and where its labels stand."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the ends of the axis, 0 to 1."""
        low, high = self.low, self.high
        if self.log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        return (values - low) / (high - low)


def linear_axis(low: Number, high: Number, rounded: bool = True) -> Axis:
    """About five ticks at 1, 2, 2.5 or 5 times a power of ten.

    Args:
        low: smallest value.
        high: largest value; if it is no larger, the axis is widened around both.
        rounded: whether the axis begins and ends at a tick, or at the values given.
    """
    low, high = float(low), float(high)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), TINY):
        pad = abs(high) * 0.1 if abs(high) > TINY else 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    # A hair of tolerance, as 0.3 / 0.1 is below 3.
    first, last = low / step, high / step
    if rounded:
        numbers = range(math.floor(first + 1e-9), math.ceil(last - 1e-9) + 1)
        low, high = numbers[0] * step, numbers[-1] * step
    else:
        numbers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    return Axis(low, high, tuple(float(f"{n * step:.12g}") for n in numbers))


def log_axis(low: Number, high: Number) -> Axis:
    """Ticks at 1, 2 and 5 times powers of ten, or at powers alone where that is many.

    Args:
        low: smallest value, above 0.
        high: largest value, above `low`.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    # The decimal literal's value, not a product that is off by a rounding.
    fine = [float(f"{m}e{k}") for k in range(first, last + 1) for m in (1, 2, 5)]
    begin = max(t for t in fine if t <= low)
    end = min(t for t in fine if t >= high)
    ticks = [t for t in fine if begin <= t <= end]
    if len(ticks) > 8:
        stride = -(-(last - first) // 8)
        ticks = [float(f"1e{k}") for k in range(first, last + 1, stride)]
    return Axis(begin, end, tuple(t for t in ticks if begin <= t <= end), log=True)


def short(value: Number, scientific: bool = False) -> str:
    """A number as an axis has it: 0.25, 2e-5, 7330, 88k, 1.5M; all alike if one is tiny."""
    if value == 0:
        return "0"
    if scientific or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def thin(y: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Which points to draw so that a line looks the same: peaks, dips, gaps and both ends stay.

    Args:
        y: heights [n], NaN for gaps.
        limit: at most so many.

    Returns:
        Indices, ascending.
    """
    if len(y) <= limit:
        return np.arange(len(y))
    kept = {0, len(y) - 1}
    for part in np.array_split(np.arange(len(y)), (limit - 2) // 3):
        missing = np.isnan(y[part])
        if missing.any():
            kept.add(int(part[missing.argmax()]))
        if not missing.all():
            kept |= {int(part[np.nanargmin(y[part])]), int(part[np.nanargmax(y[part])])}
    return np.array(sorted(kept))


def moving_mean(y: np.ndarray) -> np.ndarray:
    """The mean over a twenty-fifth of a line around each point; gaps stay.

    Args:
        y: heights [n], NaN for gaps.
    """
    half = max(1, len(y) // 50)
    known = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    begin = np.maximum(np.arange(len(y)) - half, 0)
    end = np.minimum(np.arange(len(y)) + half + 1, len(y))
    mean = (sums[end] - sums[begin]) / np.maximum(counts[end] - counts[begin], 1)
    return np.where(known, mean, np.nan)
