"""What a call costs: token counts times integer prices, summed exactly and rounded once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn, Self

from services.kit.rating.kinds import CORE_KINDS, DENOMINATOR, KINDS, coverage_gap, wholes_of

MAX_COUNT: Final = 1_000_000_000_000
"""The most of one kind in one call."""
MAX_COST_NANOS: Final = 2**63 - 1
"""The most that one call can cost, the limit of a signed 64-bit integer."""
MAX_PRICE_NANOS: Final = 2**63 - 1
"""The highest price, in nanos for ``per`` of its kind."""
MAX_EXTRA_KINDS: Final = 16
"""The most kinds beside the core ones in one call."""
MAX_TIERS: Final = 16
"""The most tiers of one rate."""

_HALF: Final = DENOMINATOR // 2


class TokensError(ValueError):
    """Counts are negative, too large or contradict each other.

    Attributes:
        field: The count that was wrong, ``cache_read_tokens``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class RateError(ValueError):
    """A rate is invalid: an unknown kind, a price out of range, or a part priced without its whole."""


class Tokens(NamedTuple):
    """What one call used. Every count is a total and includes its parts.

    Attributes:
        input_tokens: All input tokens, those read from and written to a cache included.
        cache_read_tokens: The part of the input that was read from a cache.
        cache_write_tokens: The part of the input that was written to a cache.
        output_tokens: All output tokens, reasoning included.
        reasoning_tokens: The part of the output that was reasoning.
        requests: Requests made, for prices per request; 0 for a later part of a call already counted.
        extra: Counts of further kinds of ``KINDS`` as (name, count), each name once. Where two of them overlap, the
            overlap is taken as 0 unless it is given as a kind of its own.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 1
    extra: tuple[tuple[str, int], ...] = ()


class Tier(NamedTuple):
    """Prices of a whole call whose input is larger than ``above_input_tokens``."""

    above_input_tokens: int
    prices: tuple[tuple[str, int], ...]


class _Band:
    """One price list made ready: a factor for each core kind, and the price of any kind on demand."""

    __slots__ = ("_by_kind", "_prices", "factors")

    def __init__(self, prices: Mapping[str, int]) -> None:
        self._prices = prices
        self._by_kind: dict[str, int] = {}
        # A part is counted in its whole as well, so its factor is what it costs more (or less) than its whole.
        whole, read, write, made, reasoning, requests = (self.price_of(kind) for kind in CORE_KINDS)
        self.factors = (whole, read - whole, write - whole, made, reasoning - made, requests)

    def price_of(self, kind: str) -> int:
        """Return the price of one, in nanos / DENOMINATOR: its own, else its nearest priced whole's, else 0."""
        found = self._by_kind.get(kind)
        if found is None:
            found = 0
            for name in (kind, *wholes_of(kind)):
                if name in self._prices:
                    found = self._prices[name] * (DENOMINATOR // KINDS[name].per)
                    break
            self._by_kind[kind] = found
        return found


@dataclass(frozen=True, slots=True)
class Rate:
    """The prices of one model at one time; immutable.

    A price is whole nanos for ``per`` of its kind: a million tokens, a thousand requests, an hour of audio. A kind
    without a price is charged as what it is part of, and is free where it is part of nothing.

    Attributes:
        prices: (kind, nanos), sorted by kind.
        tiers: Other prices for calls with a large input, in ascending order; the last one that the input exceeds
            prices the whole call.

    Raises:
        RateError: Unknown kind, price out of range, tiers out of order, or prices that leave a count ambiguous.
    """

    prices: tuple[tuple[str, int], ...]
    tiers: tuple[Tier, ...] = ()
    _base: _Band = field(init=False, repr=False, compare=False)
    _bands: tuple[tuple[int, _Band], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.tiers) > MAX_TIERS:
            raise RateError(f"a rate has at most {MAX_TIERS} tiers; this one has {len(self.tiers)}")
        object.__setattr__(self, "_base", _Band(_checked(self.prices)))
        bands: list[tuple[int, _Band]] = []
        before = -1
        for tier in self.tiers:
            if tier.above_input_tokens <= before:
                raise RateError("tiers must be in ascending order of above_input_tokens, from 0")
            before = tier.above_input_tokens
            bands.append((before, _Band(_checked(tier.prices))))
        object.__setattr__(self, "_bands", tuple(reversed(bands)))

    @classmethod
    def of(cls, prices: Mapping[str, int], tiers: Mapping[int, Mapping[str, int]] | None = None) -> Self:
        """Make a rate from mappings of kind to nanos, and of ``above_input_tokens`` to such a mapping."""
        return cls(
            tuple(sorted(prices.items())),
            tuple(
                Tier(above, tuple(sorted(tier_prices.items()))) for above, tier_prices in sorted((tiers or {}).items())
            ),
        )

    def band(self, input_tokens: int) -> _Band:
        """Return the price list for a call with this much input."""
        for above, band in self._bands:
            if input_tokens > above:
                return band
        return self._base


def rate(price: Rate, tokens: Tokens) -> int:
    """Return the cost of a call in nanos: every kind summed exactly, rounded half-even once.

    Raises:
        TokensError: A count is negative or past its limit, parts exceed their whole, an extra kind is unknown, or
            the cost is past the limit of a signed 64-bit integer.
    """
    whole, read, write, made, reasoning, requests, extra = tokens
    if not (
        read >= 0
        and write >= 0
        and read + write <= whole <= MAX_COUNT
        and 0 <= reasoning <= made <= MAX_COUNT
        and 0 <= requests <= MAX_COUNT
    ):
        _refuse(tokens)
    band = price.band(whole) if price.tiers else price._base  # noqa: SLF001 (the same module's hot path)
    if extra:
        total = _total_with_extra(band, tokens)
    else:
        f0, f1, f2, f3, f4, f5 = band.factors
        total = whole * f0 + read * f1 + write * f2 + made * f3 + reasoning * f4 + requests * f5
    cost, rest = divmod(total, DENOMINATOR)
    if rest > _HALF or (rest == _HALF and cost & 1):
        cost += 1
    if cost > MAX_COST_NANOS:
        raise TokensError("tokens", f"the call costs {cost} nanos, past the limit of {MAX_COST_NANOS}; split it")
    return cost


def largest_output(price: Rate, tokens: Tokens, cost_nanos: int) -> int:
    """Return the most output tokens with which a call costs no more than ``cost_nanos``; -1 where none do.

    ``MAX_COUNT`` where output costs nothing. Prices are never negative, so every smaller number costs no more either.

    Args:
        price: The rate.
        tokens: The call's other counts, of the core kinds and without reasoning; its output is not looked at.
        cost_nanos: What it may cost.
    """
    if cost_nanos < 0:
        return -1
    f0, f1, f2, f3, _, f5 = price.band(tokens.input_tokens).factors
    fixed = (
        tokens.input_tokens * f0 + tokens.cache_read_tokens * f1 + tokens.cache_write_tokens * f2 + tokens.requests * f5
    )
    # What still rounds down to the cost: half a nano more, but at an odd cost half rounds up, to the even one above.
    room = cost_nanos * DENOMINATOR + _HALF - (cost_nanos & 1) - fixed
    if room < 0:
        return -1
    return min(MAX_COUNT, room // f3) if f3 else MAX_COUNT


def check_tokens(tokens: Tokens) -> None:
    """Refuse counts that ``rate`` would refuse, for usage that no rate prices.

    Raises:
        TokensError: As ``rate``.
    """
    for kind, count in zip(CORE_KINDS, tokens[:6], strict=True):
        _check_count(kind, count)
    _exclusive(tokens)


def _refuse(tokens: Tokens) -> NoReturn:
    check_tokens(tokens)
    raise AssertionError(f"{tokens} was refused for no reason")


def _check_count(kind: str, count: int) -> None:
    if count < 0:
        raise TokensError(kind, f"{kind} is {count}; it must be 0 or more")
    if count > MAX_COUNT:
        raise TokensError(kind, f"{kind} is {count}; the limit of one call is {MAX_COUNT}: split it")


def _exclusive(tokens: Tokens) -> tuple[tuple[str, ...], list[int]]:
    """Return all kinds and how many of each are in no more specific kind; refuse parts that exceed their whole."""
    extra = tokens.extra
    if len(extra) > MAX_EXTRA_KINDS:
        raise TokensError("extra", f"the call has {len(extra)} extra kinds; the limit is {MAX_EXTRA_KINDS}")
    for kind, count in extra:
        _check_count(kind, count)
    kinds = CORE_KINDS + tuple(kind for kind, _ in extra)
    counts = tokens[:6] + tuple(count for _, count in extra)
    exclusive = [0] * len(kinds)
    for index, parts in _parts_of(kinds):
        left = counts[index] - sum(exclusive[part] for part in parts)
        if left < 0:
            named = [kinds[part] for part in parts if counts[part]]
            culprit = max(parts, key=lambda part: counts[part])
            raise TokensError(
                kinds[culprit],
                f"{kinds[index]} is {counts[index]}, less than its parts ({', '.join(sorted(named))}); "
                f"{kinds[index]} is the total and includes them",
            )
        exclusive[index] = left
    return kinds, exclusive


@lru_cache(maxsize=4_096)
def _parts_of(kinds: tuple[str, ...]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Order kinds from the most specific on, each with the indices of those that are part of it."""
    for index, kind in enumerate(kinds):
        if kind not in KINDS:
            raise TokensError("extra", f"{kind[:64]!r} is no kind of use known here; see the list of kinds")
        if kind in kinds[:index]:
            raise TokensError("extra", f"{kind} is given twice; give each kind once, core kinds as fields")
    order = sorted(range(len(kinds)), key=lambda index: (-len(KINDS[kinds[index]].dimensions), kinds[index]))
    return tuple(
        (whole, tuple(part for part in order if KINDS[kinds[part]].is_part_of(KINDS[kinds[whole]]))) for whole in order
    )


def _total_with_extra(band: _Band, tokens: Tokens) -> int:
    kinds, exclusive = _exclusive(tokens)
    return sum(count * band.price_of(kind) for kind, count in zip(kinds, exclusive, strict=True) if count)


def _checked(prices: tuple[tuple[str, int], ...]) -> dict[str, int]:
    table = dict(prices)
    if tuple(sorted(table.items())) != prices:
        raise RateError("prices must be sorted by kind, each kind once")
    for kind, nanos in prices:
        if kind not in KINDS:
            raise RateError(f"{kind!r} is no kind of use known here")
        if not 0 <= nanos <= MAX_PRICE_NANOS:
            raise RateError(f"the price of {kind} is {nanos} nanos; it must be 0 to {MAX_PRICE_NANOS}")
    gap = coverage_gap(frozenset(table))
    if gap is not None:
        raise RateError(gap)
    return table
