"""What usage would have cost otherwise: by other models, not asked again, at batch prices. Pure.

Each call is priced by the rate card of when it happened, exactly as it would have been rated. The three ways are
counted each on its own, for one call may be in all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from services.kit import money, windows
from services.kit.errors import invalid
from services.kit.rating import Layers, Tokens, TokensError, UnknownModelError, rate
from services.metering.domain.cards import RateCards
from services.metering.domain.questions import share_bps

RULES_MAX: Final = 50
"""The most rules of an organisation."""
CANDIDATES_MAX: Final = 5
"""The most candidates of a rule: each call is priced by all of them."""
VALUES_MAX: Final = 20
"""The most operations, efforts and models of a rule."""
LABELS_MAX: Final = 16
ID_CHARS_MAX: Final = 63
VALUE_CHARS_MAX: Final = 255
CALLS_MAX: Final = 200_000
"""The most calls that are priced anew for one question."""
BATCHABLE_LABEL: Final = ("batchable", "true")
"""The label of a call that can wait."""
BATCH_TIER: Final = "batch"
_SIGNS: Final = {"USD": "$", "EUR": "€", "GBP": "£"}
_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)


class Rule(NamedTuple):
    """Which work other models could do; an empty condition is met by all."""

    id: str
    operations: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    from_models: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    batchable: bool = False

    def matches(self, call: "Call") -> bool:
        """Whether a call is of this work."""
        return (
            (not self.operations or call.operation in self.operations)
            and (not self.efforts or call.effort in self.efforts)
            and (
                not self.from_models
                or call.model in self.from_models
                or f"{call.provider}/{call.model}" in self.from_models
            )
            and all(call.labels.get(key) == value for key, value in self.labels)
        )


class Call(NamedTuple):
    """A call as it is said now. `cost_nanos` None is UNRATED; `model` and `provider` are canonical."""

    occurred_at: datetime
    provider: str
    model: str
    operation: str
    effort: str
    labels: dict[str, str]
    service_tier: str
    failed: bool
    prompt_hash: bytes | None
    tokens: Tokens
    cost_nanos: int | None
    currency: str


@dataclass(slots=True)
class Candidate:
    """What a model would have cost for a rule's calls; those that it has no price for count at what they cost."""

    model: str
    cost_nanos: int = 0
    unpriced: int = 0


@dataclass(slots=True)
class RuleSum:
    """A rule's calls, what they cost, and what they would have by each candidate."""

    rule: str
    calls: int = 0
    cost_nanos: int = 0
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def best(self) -> Candidate | None:
        """The candidate that saves most, the first of equals; None: none saves."""
        cheapest = min(self.candidates, key=lambda one: one.cost_nanos, default=None)
        return cheapest if cheapest is not None and cheapest.cost_nanos < self.cost_nanos else None

    @property
    def saved_nanos(self) -> int:
        """What the best candidate costs less; never negative."""
        return self.cost_nanos - self.best.cost_nanos if self.best else 0


@dataclass(slots=True)
class Saved:
    """Calls that would have cost less, what they cost, and how much less."""

    calls: int = 0
    cost_nanos: int = 0
    saved_nanos: int = 0

    def add(self, cost_nanos: int, saved_nanos: int) -> None:
        """Counts a call."""
        self.calls += 1
        self.cost_nanos += cost_nanos
        self.saved_nanos += saved_nanos


class Savings:
    """Adds up what could have been saved.

    Args:
        org: Whose cards apply; the organisation's bare id.
        rules: In their order.
        currency: Calls in others are left out.
        cards: The prices.
        now: The time, aware: prices that are not known yet do not count.
    """

    def __init__(self, org: str, rules: Sequence[Rule], currency: str, cards: RateCards, now: datetime) -> None:
        self._org = org
        self._rules = rules
        self._currency = currency
        self._cards = cards
        self._now = now
        self._asked: set[tuple[str, str, bytes]] = set()
        self.rules = [RuleSum(rule.id, candidates=[Candidate(model) for model in rule.candidates]) for rule in rules]
        self.caching = Saved()
        self.batching = Saved()
        self.calls = 0
        self.cost_nanos = 0
        self.left_out = 0

    def add(self, calls: Iterable[Call]) -> None:
        """Adds calls, the older first."""
        for call in calls:
            if call.cost_nanos is None or call.currency != self._currency:
                self.left_out += 1
                continue
            self.calls += 1
            self.cost_nanos += call.cost_nanos
            layers = self._cards.layers(self._org, call.occurred_at, self._now)
            place = next((n for n, rule in enumerate(self._rules) if rule.matches(call)), None)
            if place is not None:
                self._route(self.rules[place], call, call.cost_nanos, layers)
            self._cache(call, call.cost_nanos)
            key, value = BATCHABLE_LABEL
            if call.labels.get(key) == value or (place is not None and self._rules[place].batchable):
                self._batch(call, call.cost_nanos, layers)

    def _route(self, sums: RuleSum, call: Call, cost_nanos: int, layers: Layers) -> None:
        sums.calls += 1
        sums.cost_nanos += cost_nanos
        for candidate in sums.candidates:
            if candidate.model in (call.model, f"{call.provider}/{call.model}"):
                candidate.cost_nanos += cost_nanos  # it did do this call
                continue
            found = self._price(candidate.model, call, layers)
            if found is None:
                candidate.unpriced += 1
                found = cost_nanos
            candidate.cost_nanos += found

    def _cache(self, call: Call, cost_nanos: int) -> None:
        if call.prompt_hash is None:
            return
        key = (call.provider, call.model, call.prompt_hash)
        if key in self._asked:
            if cost_nanos:
                self.caching.add(cost_nanos, cost_nanos)
        elif not call.failed:
            self._asked.add(key)

    def _batch(self, call: Call, cost_nanos: int, layers: Layers) -> None:
        if call.service_tier == BATCH_TIER:
            return
        found = self._price(f"{call.provider}/{call.model}", call._replace(service_tier=BATCH_TIER), layers)
        if found is not None and found < cost_nanos:
            self.batching.add(cost_nanos, cost_nanos - found)

    def _price(self, name: str, call: Call, layers: Layers) -> int | None:
        """What a model would have cost for a call, in this currency; None: there is no such price."""
        at_us = windows.unix_us(call.occurred_at)
        provider, sign, model = name.partition("/")
        # A slash may be part of the model's own name.
        for given in ((provider, model), ("", name)) if sign else (("", name),):
            try:
                found = layers.lookup(*given, at_us, call.service_tier)
                return rate(found.rate, call.tokens) if found.currency_code == self._currency else None
            except UnknownModelError:
                continue
            except TokensError:
                return None
        return None


def per_day(nanos: int, length: timedelta) -> int:
    """An amount of a range as an amount a day, rounded half-even."""
    return money.divide_half_even(nanos * (_DAY // _MICROSECOND), length // _MICROSECOND)


def rule_sentence(sums: RuleSum, whole_calls: int, currency: str, length: timedelta) -> str:
    """What a person reads of a rule; empty where nothing is saved."""
    best = sums.best
    if best is None:
        return ""
    saved = _amount(per_day(sums.saved_nanos, length), currency)
    return f"{_part(sums.calls, whole_calls)} could have been done by {best.model}: {saved} a day."


def total_sentence(rules: Sequence[RuleSum], whole_calls: int, currency: str, length: timedelta) -> str:
    """What a person reads of all rules; empty where nothing is saved."""
    saving = [sums for sums in rules if sums.best is not None]
    if not saving:
        return ""
    saved = _amount(per_day(sum(sums.saved_nanos for sums in saving), length), currency)
    calls = sum(sums.calls for sums in saving)
    return f"{_part(calls, whole_calls)} could have been done by cheaper models: {saved} a day."


def other_sentence(saved: Saved, whole_calls: int, what: str, currency: str, length: timedelta) -> str:
    """What a person reads of caching or batching; empty where nothing is saved."""
    if not saved.saved_nanos:
        return ""
    return f"{_part(saved.calls, whole_calls)} {what}: {_amount(per_day(saved.saved_nanos, length), currency)} a day."


def check_rules(rules: Sequence[Rule]) -> None:
    """Refuses rules that are no rules, or too many.

    Raises:
        PurseError: It names the field.
    """
    if len(rules) > RULES_MAX:
        raise invalid("rules", f"there are {len(rules)}; an organisation has at most {RULES_MAX}", "TOO_MANY_RULES")
    seen: set[str] = set()
    for place, rule in enumerate(rules):
        where = f"rules[{place}]"
        _check_text(f"{where}.id", rule.id, ID_CHARS_MAX)
        if rule.id in seen:
            raise invalid(f"{where}.id", f"{rule.id!r} is there twice; give each rule a name of its own")
        seen.add(rule.id)
        if not 1 <= len(rule.candidates) <= CANDIDATES_MAX:
            raise invalid(
                f"{where}.candidate_models", f"there are {len(rule.candidates)}; name 1 to {CANDIDATES_MAX} models"
            )
        if len(rule.labels) > LABELS_MAX:
            raise invalid(f"{where}.labels", f"there are {len(rule.labels)}; the limit is {LABELS_MAX}")
        for name, values in (
            ("operations", rule.operations),
            ("efforts", rule.efforts),
            ("from_models", rule.from_models),
            ("candidate_models", rule.candidates),
            ("labels", tuple(text for label in rule.labels for text in label if text)),
        ):
            if name != "labels" and len(values) > VALUES_MAX:
                raise invalid(f"{where}.{name}", f"there are {len(values)}; the limit is {VALUES_MAX}")
            if name != "labels" and len(set(values)) < len(values):
                raise invalid(f"{where}.{name}", "names one twice; name each once")
            for value in values:
                _check_text(f"{where}.{name}", value, VALUE_CHARS_MAX)


def _check_text(name: str, value: str, limit: int) -> None:
    if not 0 < len(value) <= limit or not value.isprintable():
        raise invalid(name, f"{value[:limit]!r} does not fit; write 1 to {limit} printable characters")


def _part(calls: int, whole_calls: int) -> str:
    percent = share_bps(calls, whole_calls) / 100
    share = f"{percent:.0f} %" if percent >= 1 else "less than 1 %"
    return f"{share} of the calls ({calls:,} of {whole_calls:,})"


def _amount(nanos: int, code: str) -> str:
    """An amount as people write it: in the currency's coins, or to its first figure where it is less than one."""
    digits = money.currency(code).exponent
    while 0 < nanos < 10 ** (9 - digits):
        digits += 1
    coins = money.divide_half_even(nanos, 10 ** (9 - digits))
    whole, part = divmod(coins, 10**digits)
    text = f"{whole:,}.{part:0{digits}d}" if digits else f"{whole:,}"
    sign = _SIGNS.get(code)
    return f"{sign}{text}" if sign else f"{text} {code}"
