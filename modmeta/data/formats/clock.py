"""Times of a table: numbers, dates and durations as seconds, and the frames that they number.

Trackers round times to what people read: frames at 30 a second are 0, 0.033, 0.067. So the step is the slope of a line
through all times of a task, not the gap between two of them, and a time may be off the even grid by the resolution of
the stamps, or by a few percent of a step.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modmeta.data.bounds import GAP, GAP_FREE, WHOLE
from modmeta.errors import DataError

UNEVEN = 0.05  # tolerated deviation of a time from the even grid, in steps, ...
ROUNDED = 0.65  # ... or in units of the resolution of the stamps, if that is less than half a step
RATES = (*map(Fraction, (30, 25, 24, 50, 60, 100, 120, 15, 10, 20, 200, 240, 500, 1000)), *(Fraction(top * 1000, 1001)
         for top in (24, 30, 60, 120)), *map(Fraction, range(1, 1001)))  # fmt: skip
DATES = ("%d.%m.%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%m/%d/%Y %H:%M:%S.%f",
         "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %H:%M:%S",
         "%Y/%m/%d %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S", "%Y%m%dT%H%M%S", "%d-%b-%Y %H:%M:%S",
         "%b %d %Y %H:%M:%S")  # fmt: skip
SPAN = re.compile(r"(?:(\d+) days?,? ?)?(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Clock:
    """How the values of a column of times become numbers.

    Args:
        where: the file and column, for messages.
        kind: type of the column.
        base: subtracted from integers that a float cannot hold, from dates and from text, before they become floats.
    """

    where: str
    kind: pa.DataType
    base: int

    @classmethod
    def of(cls, where: str, column: pa.ChunkedArray) -> "Clock":
        """From the first values of a column.

        Raises:
            DataError: they are neither numbers nor times.
        """
        kind, first = column.type, column.drop_null()[:1]
        clock = cls(where, kind, 0)
        if pa.types.is_integer(kind) and (len(first) == 0 or abs(first[0].as_py()) <= WHOLE):
            return clock
        if pa.types.is_floating(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind) or not len(first):
            return clock
        return cls(where, kind, int(clock._counts(first).to_pylist()[0]))

    def seconds(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Times as float64: numbers as they are written, dates and durations in seconds.

        Raises:
            DataError: a value is no time.
        """
        kind = column.type
        if pa.types.is_integer(self.kind) and pa.types.is_floating(kind):
            return column
        if pa.types.is_floating(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind):
            return column.cast(pa.float64())
        if pa.types.is_integer(kind) and not self.base:
            return column.cast(pa.float64(), safe=False)
        counts = pc.subtract(self._counts(column), self.base)
        return pc.divide(counts.cast(pa.float64()), float(self._rate))

    def text(self, value: float) -> str:
        """A number of `seconds` as in the file."""
        if pa.types.is_integer(self.kind) and self.base:
            return str(self.base + round(value))
        if pa.types.is_timestamp(self.kind) or pa.types.is_date(self.kind):
            count = self.base + round(value * self._rate)
            return str(
                pa.scalar(count * (10**9 // self._rate), pa.timestamp("ns")).cast(pa.timestamp("us"), safe=False)
            )
        return f"{value:.12g}"

    @property
    def _rate(self) -> int:
        """Counts a second."""
        if pa.types.is_date(self.kind) or pa.types.is_string(self.kind) or pa.types.is_large_string(self.kind):
            return 10**6
        return 1 if pa.types.is_integer(self.kind) else PER_SECOND[self.kind.unit]

    def _counts(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Integers, `_rate` a second."""
        kind = column.type
        if pa.types.is_integer(kind):
            return column.cast(pa.int64())
        if pa.types.is_date(kind):
            return column.cast(pa.timestamp("us")).cast(pa.int64())
        if pa.types.is_time32(kind):
            return column.cast(pa.int32()).cast(pa.int64())
        if pa.types.is_timestamp(kind) or pa.types.is_time64(kind) or pa.types.is_duration(kind):
            return column.cast(pa.int64())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return self._parsed(column)
        raise DataError(f"{self.where} is of type {kind}; it must hold numbers or times")

    def _parsed(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        coded = column.combine_chunks().dictionary_encode()
        words = coded.dictionary.to_pylist()
        read = _reader(words)
        if read is None:
            odd = next((word for word in words if _reader([word]) is None), words[0])
            raise DataError(
                f"{self.where} is of type string; {odd[:60]!r} is neither a number nor a time, such as "
                "2024-05-01T12:00:00.033"
            )
        values = pa.array([read(word) for word in words], pa.int64())
        return pa.chunked_array([values.take(coded.indices)])


def _reader(words: list[str]) -> Callable[[str], int] | None:
    """A function that reads all of these words as microseconds; None if none does."""
    if all(SPAN.fullmatch(word.strip()) for word in words):
        return _span
    for form in (None, *DATES):
        try:
            for word in words[:1000]:
                _date(word, form)
            return lambda word, form=form: _date(word, form)  # type: ignore[misc]
        except ValueError:
            continue
    return None


def _span(word: str) -> int:
    found = SPAN.fullmatch(word.strip())
    if found is None:
        raise DataError(f"{word!r} is no duration like the others")
    days, hours, minutes, seconds = found.groups()
    whole = (int(days or 0) * 24 + int(hours or 0)) * 60 + int(minutes)
    return whole * 60 * 10**6 + round(float(seconds.replace(",", ".")) * 10**6)


def _date(word: str, form: str | None) -> int:
    moment = datetime.fromisoformat(word.strip()) if form is None else datetime.strptime(word.strip(), form)
    since = moment.replace(tzinfo=None) - datetime(1970, 1, 1)
    offset = moment.utcoffset()
    since = since if offset is None else since - offset
    return (since.days * 86400 + since.seconds) * 10**6 + since.microseconds


# ---- frames ----------------------------------------------------------------------------------------------------------


def numbered(
    where: str, name: str, clock: Clock, task: np.ndarray, time: np.ndarray, task_name: Callable[[int], Any]
) -> tuple[float, np.ndarray, str | None]:
    """Step of times, the frame number of every time, and a note if they are uneven.

    Args:
        where: the file, for messages.
        name: the column, for messages.
        clock: of the column.
        task: number of the task of every time, sorted.
        time: increasing within a task.
        task_name: name of a task by number.

    Raises:
        DataError: a gap is too long, or a time is not on an even grid.
    """
    first = np.searchsorted(task, task)
    inside = np.diff(task) == 0
    gaps = np.diff(time)[inside]
    if not len(gaps):
        return 1.0, np.zeros(len(task), np.int64), None
    rough = float(np.median(gaps))
    since = time - time[first]
    with np.errstate(over="ignore"):
        far = ~(since / rough <= GAP_FREE + GAP * np.bincount(task)[task])
    if far.any():
        gap = np.append(0.0, np.diff(time) / rough * inside)
        at = int(np.where(task == task[far.argmax()], gap, 0).argmax())
        raise DataError(
            f"{where}: task {task_name(task[at])}, {name} {clock.text(time[at])} is {gap[at]:.6g} steps after the "
            f"previous one, {clock.text(time[at - 1])}; correct the row, or split the task at the gap"
        )
    resolution = _resolution(since, time)
    step, slots = _fitted(task, first, since, inside, rough, resolution)
    off, allowed = _deviation(task, since, step, slots), _allowed(step, resolution)
    twice = inside & (np.diff(slots) == 0)
    wrong = off > allowed
    wrong[1:] |= twice
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"{where}: task {task_name(task[at])}, {name} {clock.text(time[at])} is not a multiple of {step:.6g} after "
            f"the first, {clock.text(time[first[at]])}; steps must be even, or give resample={step:.6g} to interpolate"
        )
    uneven = float(off.max()) / step
    note = None
    if uneven > 1e-3:
        note = f"{name}: times are off an even grid by up to {uneven:.1%} of a step, {step:.6g}; they count as even"
    return step, slots, note


def _resolution(since: np.ndarray, time: np.ndarray) -> float:
    """The smallest unit in which times were written, such as 0.001."""
    floor = float(np.spacing(np.abs(time).max()))
    sample = since if len(since) <= 10_000 else since[:: len(since) // 10_000 + 1]
    for digits in range(10):
        unit = 10.0**-digits
        if floor >= unit:
            break
        if (np.abs(sample - np.round(sample / unit) * unit) <= 4 * floor).all():
            return unit
    return 4 * floor


def _fitted(
    task: np.ndarray, first: np.ndarray, since: np.ndarray, inside: np.ndarray, rough: float, resolution: float
) -> tuple[float, np.ndarray]:
    """Step and frame numbers by least squares, from a rough step."""
    counts = np.append(0.0, np.where(inside, np.maximum(np.round(np.diff(since) / rough), 1), 0))
    total = np.cumsum(counts)
    slots = (total - total[first]).astype(np.int64)
    x, y = _centred(task, slots), _centred(task, since)
    slope = float((x * y).sum() / (x * x).sum())
    if _deviation(task, since, slope, slots).max() > _allowed(
        slope, resolution
    ):  # a mistake stands out of the usual gap
        step = float(f"{rough:.12g}")
        return step, np.round(since / step).astype(np.int64)
    spread = float(_deviation(task, since, slope, slots).max())
    return _simple(slope, int(slots.max()), max(resolution / 2, spread)), slots


def _centred(task: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values without the mean of their task."""
    return values - (np.bincount(task, values) / np.bincount(task))[task]


def _deviation(task: np.ndarray, since: np.ndarray, step: float, slots: np.ndarray) -> np.ndarray:
    """Distance of every time from an even grid through the first time of its task, or through their mean."""
    off = since - step * slots
    return np.minimum(np.abs(off), np.abs(_centred(task, off)))


def _allowed(step: float, resolution: float) -> float:
    return max(UNEVEN * step, ROUNDED * resolution if 2 * resolution < step else 0)


def _simple(slope: float, length: int, doubt: float) -> float:
    """The simplest step with which the last of `length` times is off by less than `doubt`: 0.1, 1 / 30, 0.1234."""
    allowed = max(doubt, 1e-9 * slope * length) / length

    def short(digits: range) -> float | None:
        steps = (float(f"{slope:.{count}g}") for count in digits)
        return next((step for step in steps if abs(step - slope) <= min(allowed, 1e-3 * slope)), None)

    if (step := short(range(1, 3))) is not None:
        return step
    for unit in (1, 10**3, 10**6, 10**9):  # seconds, ms, us, ns
        for rate in RATES:
            if abs((exact := float(unit / rate)) - slope) <= min(allowed, 1e-2 * slope):
                return exact
    return short(range(3, 10)) or float(f"{slope:.12g}")
