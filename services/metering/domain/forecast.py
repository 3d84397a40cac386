"""Forecasts of hourly spend. Pure: history goes in as an array, one value an hour, the oldest first.

The point is a season by hour of the week and one by hour of the day (weekends apart), mixed by how well each did, and
moved towards the level of the last day, as far as that did better. The spread is what its own forecasts were off by
before, over as many hours, those weighted more that were made lately and at a like hour. All of it is passes of numpy.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

HISTORY_HOURS_MAX: Final = 1_344
"""The most history that is looked at: eight weeks."""
HORIZON_HOURS_MAX: Final = 720
"""The furthest that is forecast."""
SHORT_HOURS: Final = 48
"""With less history than this there is no season to see."""
QUANTILES: Final = (0.5, 0.9, 0.99)

_WEEK: Final = 168
_DAY: Final = 24
_WEEK_ALPHA: Final = 0.3
_DAY_ALPHA: Final = 0.2
_ERROR_ALPHA: Final = 0.02
_MIX_ALPHA: Final = 0.01
_MIX_POWER: Final = 6.0
_LEVEL_POWER: Final = 0.6
_LEVEL_MAX: Final = 8.0
_HALF_LIFE_HOURS: Final = 200.0
_LIKE_FLOOR: Final = 0.15
_LIKE_HOURS: Final = 3.0
_OTHER_DAY: Final = 0.5
_ERRORS_MIN: Final = 24
_WIDEN: Final = 2.0
_Z: Final = {0.5: 0.0, 0.9: 1.2815515655446004, 0.99: 2.3263478740408408}

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spend:
    """Quantiles of a sum of spend; each at least the one before."""

    p50: float
    p90: float
    p99: float


class Forecaster:
    """Forecasts of one history.

    Args:
        history: Spend by hour, the oldest first, up to the last full hour. Never negative: corrections belong to the
            hour that they correct.
        first_hour: The hour of the week in which it begins, 0 for Monday 0 to 1 o'clock where spend happens.
    """

    def __init__(self, history: Array, first_hour: int) -> None:
        kept = np.maximum(np.asarray(history, dtype=np.float64), 0.0)
        # What was before the first spend says nothing of what comes.
        spent = np.flatnonzero(kept)
        skipped = max(int(spent[0]) if spent.size else kept.size, kept.size - HISTORY_HOURS_MAX)
        self._y = kept[skipped:]
        self._first_hour = (first_hour + skipped) % _WEEK
        # In units of the mean, so that no constant below depends on the currency's size.
        self._unit = float(self._y.mean()) if self.hours else 1.0
        self._y = self._y / self._unit
        self._sums = np.concatenate(([0.0], np.cumsum(self._y)))
        self._seasons = _Seasons(self._y, self._first_hour) if self.hours >= SHORT_HOURS else None

    @property
    def hours(self) -> int:
        """How many hours there are since the first spend, or as many as are looked at."""
        return int(self._y.size)

    def spend(self, horizon_hours: int) -> Spend:
        """What is spent over the next hours."""
        return self.spend_at(self.hours, horizon_hours)

    def spend_at(self, origin: int, horizon_hours: int) -> Spend:
        """What would have been said after the first `origin` hours, of what comes after them."""
        if origin == 0:
            return Spend(0.0, 0.0, 0.0)
        if self._seasons is None or origin < SHORT_HOURS:
            found = [_short(self._y[:origin], horizon_hours, _Z[q]) for q in QUANTILES]
        else:
            points = self._seasons.points(horizon_hours)
            found = self._with_errors(points, origin, horizon_hours)
        low, middle, high = np.maximum.accumulate(np.maximum(found, 0.0)) * self._unit
        return Spend(float(low), float(middle), float(high))

    def peak(self, hours: int) -> float:
        """The most that was ever spent in so many hours in a row; in all of them where there are fewer."""
        return self.peak_at(self.hours, hours)

    def peak_at(self, origin: int, hours: int) -> float:
        """What would have been said after the first `origin` hours."""
        width = min(hours, origin)
        if not width:
            return 0.0
        return float((self._sums[width : origin + 1] - self._sums[: origin + 1 - width]).max()) * self._unit

    def hours_until(self, amount: float, quantile: float) -> int | None:
        """After how many hours spend at a quantile reaches an amount; None: not within the furthest horizon.

        The quantile grows with the horizon all but strictly, so it is searched by halves.
        """

        def reaches(hours: int) -> bool:
            found = self.spend(hours)
            return dict(zip(QUANTILES, (found.p50, found.p90, found.p99), strict=True))[quantile] >= amount

        if amount <= 0:
            return 0
        if not reaches(HORIZON_HOURS_MAX):
            return None
        low, high = 0, HORIZON_HOURS_MAX
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return high

    def _with_errors(self, points: Array, origin: int, horizon: int) -> list[float]:
        point = float(points[origin])
        origins = np.arange(min(_DAY, origin), origin - horizon + 1)
        if origins.size < _ERRORS_MIN:
            short = [_short(self._y[:origin], horizon, _Z[q]) for q in QUANTILES]
            return [point + max(0.0, wide - short[0]) for wide in short]
        errors = self._sums[origins + horizon] - self._sums[origins] - points[origins]
        errors = _at_level(errors, points[origins], point)
        weights = 0.5 ** ((origin - horizon - origins) / _HALF_LIFE_HOURS) * self._likeness(origins, origin, horizon)
        # Errors of overlapping sums are nearly one error: what counts is how many sums fit in side by side.
        effective = float(weights.sum() ** 2 / (weights**2).sum()) / max(1.0, horizon / 12.0)
        order = np.argsort(errors)
        ranks = np.cumsum(weights[order]) / weights.sum()
        found = []
        for q in QUANTILES:
            level = min(1.0, q + (q - 0.5) * _WIDEN / (1.0 + effective))
            found.append(point + float(errors[order][min(int(np.searchsorted(ranks, level)), errors.size - 1)]))
        return found

    def _likeness(self, origins: Ints, origin: int, horizon: int) -> Array:
        """How much a past forecast is like this one: by hour of the day, and by weekend or not."""
        if horizon >= _WEEK:
            return np.ones(origins.size)
        apart = np.abs(origins - origin) % _DAY
        apart = np.minimum(apart, _DAY - apart)
        like = _LIKE_FLOOR + np.exp(-((apart / _LIKE_HOURS) ** 2))
        weekly = np.abs(origins - origin) % _WEEK
        weekly = np.minimum(weekly, _WEEK - weekly)
        return np.asarray(like * np.where(weekly <= _DAY // 2, 1.0, _OTHER_DAY), dtype=np.float64)


class _Seasons:
    """The two seasons of a history after each of its hours; everything is known of the past alone."""

    def __init__(self, y: Array, first_hour: int) -> None:
        self._y = y
        self._slots = (np.arange(y.size + HORIZON_HOURS_MAX) + first_hour) % _WEEK
        hour, weekend = self._slots % _DAY, self._slots >= 5 * _DAY
        self._day_slots = hour + _DAY * weekend
        self._week = _ewma(y, self._slots[: y.size], _WEEK, _WEEK_ALPHA)
        self._day = _ewma(y, self._day_slots[: y.size], 2 * _DAY, _DAY_ALPHA)
        self._last = self._last_seen(y.size)
        self._week_weight, self._level = self._fit()
        self._points: dict[int, Array] = {}
        self._totals: list[Array] = [np.zeros(y.size + 1)]

    def points(self, horizon: int) -> Array:
        """For each origin the expected sum of the next `horizon` hours; `origin` counts the hours known."""
        if horizon not in self._points:
            origins = np.arange(self._y.size + 1)
            while len(self._totals) <= horizon:
                self._totals.append(self._totals[-1] + self._hour_ahead(origins, len(self._totals) - 1))
            self._points[horizon] = self._leveled(self._totals[horizon], horizon)
        return self._points[horizon]

    def _leveled(self, season: Array, horizon: int) -> Array:
        """The season at the last day's level, as far as that did better than the season alone, with past sums."""
        moved = season * self._level
        known = np.arange(self._y.size - horizon + 1)
        if not known.size:
            return moved
        actual = _window(self._y, horizon)[horizon:]
        alone, leveled = (_running((actual - said[known]) ** 2, _MIX_ALPHA) + 1e-12 for said in (season, moved))
        weight = np.full(season.size, 0.5)
        # Of origin t the last sum that is known began `horizon` hours before.
        weight[horizon:] = 1.0 / (1.0 + np.clip(leveled / alone, 1e-6, 1e6) ** _MIX_POWER)
        return np.asarray(weight * moved + (1 - weight) * season, dtype=np.float64)

    def _hour_ahead(self, origins: Ints, ahead: int) -> Array:
        """Of each origin, the season's value of the hour `ahead` hours after the first unknown one."""
        day = self._by_day(origins, origins + ahead)
        known = origins + ahead % _WEEK - _WEEK
        week = np.where(known >= 0, self._week[np.maximum(known, 0)], day)
        weight = np.where(known >= 0, self._week_weight, 0.0)
        return np.asarray(weight * week + (1 - weight) * day, dtype=np.float64)

    def _by_day(self, origins: Ints, targets: Ints) -> Array:
        slots = self._day_slots[targets]
        last = self._last[origins, slots]
        # A weekend that was never seen is taken for a weekday, and the other way round.
        other = self._last[origins, (slots + _DAY) % (2 * _DAY)]
        index = np.where(last >= 0, last, other)
        return np.where(index >= 0, self._day[np.maximum(index, 0)], 0.0)

    def _last_seen(self, hours: int) -> Ints:
        """Of each origin and slot of the day, the last known hour in it; -1: none."""
        seen = np.full((hours + 1, 2 * _DAY), -1, dtype=np.int64)
        seen[np.arange(1, hours + 1), self._day_slots[:hours]] = np.arange(hours)
        return np.maximum.accumulate(seen, axis=0)

    def _fit(self) -> tuple[Array, Array]:
        """The weight of the weekly season, and the level of the last day against the season, after each hour."""
        hours = np.arange(self._y.size)
        day = self._by_day(hours, hours)
        known = hours - _WEEK
        week = np.where(known >= 0, self._week[np.maximum(known, 0)], day)
        day_error = _running((self._y - day) ** 2, _ERROR_ALPHA)
        week_error = _running((self._y - week) ** 2, _ERROR_ALPHA)
        weight = (day_error + 1e-9) / (day_error + week_error + 2e-9)
        fitted = weight * week + (1 - weight) * day
        # An idle day's ratio says little, so both sides are moved a little to the usual.
        usual = np.concatenate(([0.0], np.cumsum(self._y))) / np.maximum(1, np.arange(self._y.size + 1)) * _DAY
        floor = 0.05 * usual + 1e-9
        ratio = (_window(self._y, _DAY) + floor) / (_window(fitted, _DAY) + floor)
        level = np.clip(ratio**_LEVEL_POWER, 1 / _LEVEL_MAX, _LEVEL_MAX)
        return np.concatenate(([0.5], weight)), level


def _at_level(errors: Array, points: Array, point: float) -> Array:
    """Errors of forecasts at other levels, brought half-way to the present one, as they grow with the level.

    Upwards only as far as an error was within its forecast: what nobody saw coming has nothing to do with the level.
    """
    scale = np.clip(np.sqrt((point + 0.1) / (points + 0.1)), 0.25, 4.0)
    sizes = np.abs(errors)
    grown = np.sign(errors) * np.maximum(sizes, np.minimum(sizes, points) * scale)
    return np.asarray(np.where(scale > 1, grown, errors * scale), dtype=np.float64)


def _ewma(y: Array, slots: Ints, count: int, alpha: float) -> Array:
    """After each hour, the weighted mean of the hours in its slot."""
    means = np.empty(y.size)
    state, seen = [0.0] * count, [0] * count
    for n, (value, slot) in enumerate(zip(y.tolist(), slots.tolist(), strict=True)):
        seen[slot] += 1
        # The first values count alike, so that the very first one does not stay for long.
        state[slot] += (value - state[slot]) * max(alpha, 1.0 / seen[slot])
        means[n] = state[slot]
    return means


def _running(values: Array, alpha: float) -> Array:
    found = np.empty(values.size)
    mean = 0.0
    for n, value in enumerate(values.tolist()):
        mean += (value - mean) * max(alpha, 1.0 / (n + 1))
        found[n] = mean
    return found


def _window(values: Array, width: int) -> Array:
    """Of each origin, the sum of the last `width` values before it."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    origins = np.arange(values.size + 1)
    return np.asarray(sums - sums[np.maximum(0, origins - width)], dtype=np.float64)


def _short(y: Array, horizon: int, z: float) -> float:
    """A quantile without a season: the mean, and a margin that shrinks as hours come in."""
    mean, deviation = float(y.mean()), float(y.std())
    margin = max(deviation, mean) * float(np.sqrt(1 / horizon + 1 / max(1.0, y.size / 6)))
    return horizon * (mean + z * margin)
