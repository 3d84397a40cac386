"""A wallet counted coin by coin: what the books must say, written as plainly as possible.

Every nano is one coin with one place. Slow, and good for small amounts only.
"""

from dataclasses import dataclass, field
from datetime import datetime

NOBODY = ""


@dataclass(slots=True)
class Coin:
    """One nano of a grant.

    Attributes:
        place: free, leased, spent or expired.
        holder: Who leases or spent it.
        run: When it was tagged: consecutive taggings of one lot for one holder share a number.
    """

    lot: str
    place: str = "free"
    holder: str = NOBODY
    run: int = 0


@dataclass(slots=True)
class Totals:
    extended: int = 0
    captured: int = 0
    returned: int = 0
    reversed: int = 0

    @property
    def escrow(self) -> int:
        return self.extended - self.captured - self.returned


@dataclass(slots=True)
class Model:
    """The whole wallet."""

    coins: list[Coin] = field(default_factory=list)
    burn: dict[str, tuple[object, ...]] = field(default_factory=dict)
    expiry: dict[str, datetime | None] = field(default_factory=dict)
    debt: int = 0
    leases: dict[str, Totals] = field(default_factory=dict)
    runs: int = 0

    # What there is.

    def at(self, place: str, holder: str | None = None) -> list[Coin]:
        return [c for c in self.coins if c.place == place and holder in (None, c.holder)]

    @property
    def available(self) -> int:
        return len(self.at("free"))

    def lots(self) -> dict[str, dict[str, int]]:
        """Amounts by lot and place."""
        out = {name: {"free": 0, "leased": 0, "spent": 0, "expired": 0} for name in self.burn}
        for coin in self.coins:
            out[coin.lot][coin.place] += 1
        return out

    # What happens.

    def grant(self, lot: str, amount: int, priority: int, expires: datetime | None, now: datetime) -> None:
        self.burn[lot] = (priority, expires is None, expires.timestamp() if expires else 0, len(self.burn))
        self.expiry[lot] = expires
        self.coins += [Coin(lot) for _ in range(amount)]
        self.repay()
        self.expire(now)

    def expire(self, now: datetime) -> None:
        for coin in self.at("free"):
            expires = self.expiry[coin.lot]
            if expires is not None and expires <= now:
                coin.place = "expired"

    def repay(self) -> None:
        for coin in self.take_free(min(self.debt, self.available)):
            self.tag(coin, "spent", NOBODY)
            self.debt -= 1

    def extend(self, holder: str, amount: int) -> None:
        for coin in self.take_free(amount):
            self.tag(coin, "leased", holder)
        self.leases.setdefault(holder, Totals()).extended += amount

    def capture(self, holder: str, amount: int) -> None:
        lease = self.leases.setdefault(holder, Totals())
        short = max(0, amount - lease.escrow)
        from_available = min(short, self.available)
        self.extend(holder, from_available)
        self.debt += short - from_available
        lease.extended += short - from_available
        for coin in sorted(self.at("leased", holder), key=lambda c: c.run)[:amount]:
            coin.place = "spent"
        lease.captured += amount

    def give_up(self, holder: str, amount: int, now: datetime) -> None:
        for coin in sorted(self.at("leased", holder), key=lambda c: -c.run)[:amount]:
            coin.place, coin.holder = "free", NOBODY
        self.leases[holder].returned += amount
        if amount:
            self.expire(now)
            self.repay()

    def reverse(self, holder: str, amount: int, now: datetime) -> None:
        self.leases[holder].reversed += amount
        to_debt = min(self.debt, amount)
        self.debt -= to_debt
        rank = {holder: 0, NOBODY: 1}
        for coin in sorted(self.at("spent"), key=lambda c: (rank.get(c.holder, 2), -c.run))[: amount - to_debt]:
            coin.place, coin.holder = "free", NOBODY
        self.expire(now)

    # Parts.

    def take_free(self, amount: int) -> list[Coin]:
        return sorted(self.at("free"), key=lambda c: self.burn[c.lot])[:amount]

    def tag(self, coin: Coin, place: str, holder: str) -> None:
        own = [c for c in self.coins if c.place in ("leased", "spent") and c.holder == holder]
        newest = max(own, key=lambda c: c.run, default=None)
        if newest is None or newest.lot != coin.lot:
            self.runs = max((c.run for c in self.coins if c.place in ("leased", "spent")), default=0) + 1
            run = self.runs
        else:
            run = newest.run
        coin.place, coin.holder, coin.run = place, holder, run
